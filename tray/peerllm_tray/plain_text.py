"""Text of strangers (names of peers, reasons they give) as one line of a menu, a tooltip or a notification."""

from __future__ import annotations

_MOST_CHARS = 160


def plain(text: str, most_chars: int = _MOST_CHARS) -> str:
    """One line: "?" for what does not print, "…" for what is too long. Markup in it is the surface's to escape."""
    cut = text if len(text) <= most_chars else f"{text[: most_chars - 1]}…"
    return "".join(character if character.isprintable() else "?" for character in cut)


def sentence(text: str) -> str:
    """`plain`, beginning with a capital."""
    return plain(text[:1].upper() + text[1:])


def listed(items: tuple[str, ...], most: int = 3) -> str:
    """ "a, b and c"; of many, the first ones and how many more there are."""
    if len(items) > most:
        items = (*items[: most - 1], f"{len(items) - most + 1} more")
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))
