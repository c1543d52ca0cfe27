"""What a hop has sent to the next one, kept so that it can be sent again to whoever stands in for that hop."""

from __future__ import annotations

from typing import cast

import numpy as np

from peerllm.wire.messages import WireHidden

_FIRST_ROWS = 64


class HistoryRoom:
    """Memory for the histories of all sessions of one span; what does not fit is forgotten, not refused.

    Histories of sessions that rest are forgotten first, for those that run.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0
        self.resting: dict[History, None] = {}
        """In the order in which they came to rest."""

    def take(self, count: int) -> bool:
        """Whether `count` more bytes may be used; they count as used if so."""
        while self.used_bytes + count > self._limit_bytes and self.resting:
            next(iter(self.resting)).forget()
        if self.used_bytes + count > self._limit_bytes:
            return False
        self.used_bytes += count
        return True

    def give(self, count: int) -> None:
        self.used_bytes -= count


class History:
    """Rows ``[T, D]`` of one session from position 0 on, in the type they travelled in."""

    def __init__(self, room: HistoryRoom, tokens: int) -> None:
        """`tokens` is how long the session may become."""
        self._room = room
        self._tokens = tokens
        self._rows: WireHidden | None = None
        self._length = 0
        self._forgotten = False

    def note(self, position: int, rows: WireHidden) -> None:
        """These rows were sent, the first of them at `position`; copies them, as they belong to the engine's batch."""
        if self._forgotten:
            return
        length = position + len(rows)
        kept = self._with_room(length, rows) if position <= self._length else None
        if kept is None:
            self.forget()
        else:
            kept[position:length] = rows
            self._length = length

    def begin_as(self, other: History, length: int) -> None:
        """The first positions are those of another session; nothing is remembered if it does not remember them."""
        rows = other.rows(0, length)
        if rows is None:
            self.forget()
        else:
            self.note(0, rows)

    def back_to(self, position: int) -> None:
        """Positions from there on were never sent."""
        self._length = min(self._length, position)
        self._forgotten = self._forgotten and position > 0

    def rows(self, start: int, end: int) -> WireHidden | None:
        """Rows ``[end - start, D]``; None if they are not remembered."""
        if start == end:
            return np.empty((0, 1), np.float32)
        if self._rows is None or self._length < end:
            return None
        return self._rows[start:end]

    def rest(self) -> None:
        """From now on others' need for memory goes first."""
        self._room.resting[self] = None

    def wake(self, tokens: int) -> None:
        """In use again, by a session that may become so long."""
        self._room.resting.pop(self, None)
        self._tokens = tokens

    def forget(self) -> None:
        """Give the memory back; nothing is remembered from now on."""
        self._room.resting.pop(self, None)
        if self._rows is not None:
            self._room.give(self._rows.nbytes)
        self._rows, self._forgotten, self._length = None, True, 0

    def _with_room(self, length: int, rows: WireHidden) -> WireHidden | None:
        """The array with room for so many rows, of a type that holds these as well; None if memory is short."""
        none = cast(WireHidden, np.empty((0, rows.shape[1]), rows.dtype))
        old = self._rows if self._rows is not None else none
        dtype = np.promote_types(old.dtype, rows.dtype)
        if length <= len(old) and dtype == old.dtype:
            return old
        capacity = max(length, min(self._tokens, max(_FIRST_ROWS, 2 * len(old))))
        if not self._room.take(capacity * old.shape[1] * dtype.itemsize - old.nbytes):
            return None
        grown = cast(WireHidden, np.empty((capacity, old.shape[1]), dtype))
        grown[: self._length] = old[: self._length]
        self._rows = grown
        return grown
