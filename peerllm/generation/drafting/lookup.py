"""Prompt lookup: a text goes on as it did where it read the same before.

Places are found by the tokens before them, through hash chains as compressors of the LZ77 family keep them: one entry
per token and length, whatever the size of the text. Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

SUFFIXES = (8, 4, 2, 1)
"""Lengths by which places are found, the longest first."""

LOOKED_AT = 16
"""Places of one suffix that are compared, the latest first."""

LONGEST = 12
"""Agreeing tokens that are counted: more say nothing more."""

NEAR = 24
"""Tokens behind the place of the last copy where it may go on once something else was written instead."""

BORDER = -1
"""Between two texts; no token, so nothing agrees with it."""


@dataclass(frozen=True)
class Match:
    """A place in the text with so many tokens before it that also end the text; what stands there may come next."""

    place: int
    length: int
    follows: bool = False
    """It goes on where the text has been copied from."""
    known: bool = False
    """It lies in what was known beforehand."""


class Lookup:
    """One growing text: what is known beforehand, then prompt and answer."""

    def __init__(self, known: Iterable[Sequence[int]] = ()) -> None:
        """`known` are texts that the answer may repeat, the likeliest last."""
        self._text: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}  # (length, hash of a suffix) to the last place behind it
        self._before: dict[int, list[int]] = {length: [] for length in SUFFIXES}  # place to the one before, or -1
        self._line: int | None = None  # where the last copy would go on, after as many tokens as it has followed
        for text in known:
            self.extend(text)
            self.extend((BORDER,))
        self._known = len(self._text)

    def __len__(self) -> int:
        """Tokens of prompt and answer."""
        return len(self._text) - self._known

    def agrees(self, tokens: Sequence[int], start: int) -> int:
        """How many of `tokens` are those of prompt and answer, of which the first `start` are known to be."""
        text, end = self._text, min(len(self), len(tokens))
        return next((at for at in range(start, end) if text[self._known + at] != tokens[at]), end)

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            for length in SUFFIXES:
                self._note(length)
            if self._line is not None and self._text[self._line] == token:
                self._line += 1
            self._text.append(token)

    def cut(self, length: int) -> None:
        """Forget all tokens of prompt and answer behind the first so many."""
        while len(self) > length:
            self._text.pop()
            self._line = max(0, self._line - 1) if self._line else self._line
            for suffix in SUFFIXES:
                self._forget(suffix)

    def match(self) -> Match | None:
        """The place whose past agrees longest with the end of the text; None if there is none to go on from.

        Of equals what was known beforehand, then the one in line with the last copy, then one that goes on as most
        do, then the latest.
        """
        found = next(filter(None, (list(self._matches(length)) for length in SUFFIXES)), [])
        found += self._matches_in_line()
        if not found:
            return self._instead()
        following = Counter(self._text[it.place] for it in found)
        return max(found, key=lambda it: (it.length, it.known, it.follows, following[self._text[it.place]], it.place))

    def beginning(self) -> Match | None:
        """The beginning of the first text that was known beforehand; None if there is none."""
        return Match(0, 0, follows=True, known=True) if self._known else None

    def copied(self, match: Match, at_most: int) -> list[int]:
        """What stands there; a copy that reaches the end of the text goes on with itself, as in LZ77."""
        self._line = match.place
        tokens: list[int] = []
        for place in range(match.place, match.place + at_most):
            token = self._text[place] if place < len(self._text) else tokens[place - len(self._text)]
            if token == BORDER:
                break
            tokens.append(token)
        return tokens

    def _note(self, length: int) -> None:
        """The place that is about to be written stands behind the suffix of that length."""
        place = len(self._text)
        key = self._key(length)
        self._before[length].append(-1 if key is None else self._latest.get(key, -1))
        if key is not None:
            self._latest[key] = place

    def _forget(self, length: int) -> None:
        """Undo `_note` of the place that now is the end."""
        before = self._before[length].pop()
        key = self._key(length)
        if key is not None and before >= 0:
            self._latest[key] = before
        elif key is not None:
            del self._latest[key]

    def _key(self, length: int) -> tuple[int, int] | None:
        suffix = self._text[-length:]
        return (length, hash(tuple(suffix))) if len(suffix) == length else None

    def _matches(self, length: int) -> Iterator[Match]:
        key = self._key(length)
        place = -1 if key is None else self._latest.get(key, -1)
        for _ in range(LOOKED_AT):
            if place < 0:
                return
            agreeing = self._agreeing(place)
            if agreeing >= length and self._text[place] != BORDER:  # fewer: two suffixes of one hash
                yield Match(place, agreeing, place == self._line, place < self._known)
            place = self._before[length][place]

    def _matches_in_line(self) -> Iterator[Match]:
        if self._line is None:
            return
        for place in range(max(self._line, 1), min(self._line + NEAR, len(self._text))):
            agreeing = self._agreeing(place)
            if agreeing and self._text[place] != BORDER:
                yield Match(place, agreeing, follows=True, known=place < self._known)
                return

    def _instead(self) -> Match | None:
        """Behind what is written instead of the next token of the copied text, the text may go on."""
        if self._line is None or not 0 < self._line < len(self._text) - 1 or self._text[self._line + 1] == BORDER:
            return None
        return Match(self._line + 1, 0, follows=True, known=self._line < self._known)

    def _agreeing(self, place: int) -> int:
        length, end = 0, len(self._text)
        while length < min(LONGEST, place) and self._text[place - 1 - length] == self._text[end - 1 - length]:
            length += 1
        return length
