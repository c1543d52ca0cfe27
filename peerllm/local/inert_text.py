"""Text of strangers as something to show: names of peers and reasons they give must neither act nor fill a screen."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_CHARS = 300


def inert(text: str, most_chars: int = _MOST_CHARS) -> str:
    """One line: "?" for what does not print, "…" for what is too long. Markup in it is the caller's to escape."""
    cut = text if len(text) <= most_chars else f"{text[: max(0, most_chars - 1)]}…"
    return "".join(character if character.isprintable() else "?" for character in cut)


def sentence(words: str) -> str:
    """With a capital."""
    return words[:1].upper() + words[1:]


def listed(items: Sequence[str], most: int = 4) -> str:
    """ "a, b and c"; of many, the first ones and how many more there are."""
    if len(items) > most:
        items = (*items[: most - 1], f"{len(items) - most + 1} more")
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
