"""Text of strangers (names of peers, reasons they give) as one line of a menu, a tooltip or a notification."""

from __future__ import annotations

from peerllm.local import inert_text

_MOST_CHARS = 160


def plain(text: str, most_chars: int = _MOST_CHARS) -> str:
    """One line that does nothing and fits. Markup in it is the surface's to escape."""
    return inert_text.inert(text, most_chars)


def sentence(text: str) -> str:
    """`plain`, beginning with a capital."""
    return plain(inert_text.sentence(text))
