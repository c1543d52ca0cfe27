"""The part of a page that a bench writes itself, between two marks."""

from __future__ import annotations

BEGIN = "<!-- begin: written by ./dev bench speed --write-docs -->"
END = "<!-- end: written by ./dev bench speed --write-docs -->"


def with_block(page: str, block: str) -> str:
    """The page with `block` between its marks; all else stays as it is.

    Raises:
        ValueError: the page does not have each mark once, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the page must have {BEGIN!r} and {END!r} once each, in this order")
    return f"{before}{BEGIN}\n{block.strip()}\n{END}{after}"
