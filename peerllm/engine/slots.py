"""The slots of a loaded span: which are taken, how far each has come, what may be asked of it next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerllm.engine.span_engine import EngineInfo, Rows
from peerllm.errors import BadRows, EngineError, NoSlot


@dataclass
class _Slot:
    length: int = 0
    way: tuple[int, int] | None = None  # enter, exit: fixed by the session's first step


class Slots:
    """Book-keeping alone; the keys and values lie with the engine."""

    def __init__(self, info: EngineInfo, hidden: int) -> None:
        self._info = info
        self._hidden = hidden
        self._taken: dict[int, _Slot] = {}

    def open(self) -> int:
        """The lowest free slot: neighbours are the cheapest to batch."""
        free = next((slot for slot in range(self._info.slots) if slot not in self._taken), None)
        if free is None:
            raise NoSlot(f"all {self._info.slots} sessions of span {self._info.span} are taken")
        self._taken[free] = _Slot()
        return free

    def check(self, batch: Sequence[Rows]) -> None:
        """Raise `EngineError` before anything is computed if an entry cannot be."""
        if len({rows.slot for rows in batch}) != len(batch):
            raise EngineError("a slot appears twice in one batch")
        for rows in batch:
            self._check(rows)

    def advance(self, batch: Sequence[Rows]) -> None:
        for rows in batch:
            slot = self._taken[rows.slot]
            slot.length += len(rows.hidden)
            slot.way = (rows.enter, rows.exit)

    def fork(self, source: int, to: int, into: int) -> None:
        """Have an empty slot hold what `source` holds before position `to`, and run the same blocks."""
        held, empty = self._of(source), self._of(into)
        if empty.length or source == into:
            raise EngineError(f"slot {into} is not empty, nothing can be copied into it")
        if not 0 < to <= held.length:
            raise EngineError(f"slot {source} holds {held.length} positions, not {to} to be copied")
        empty.length, empty.way = to, held.way

    def rewind(self, slot: int, to: int) -> int:
        """Shorten the slot to `to`; its length before."""
        taken = self._of(slot)
        if not 0 <= to <= taken.length:
            raise EngineError(f"slot {slot} holds {taken.length} positions and cannot be rewound to {to}")
        before, taken.length = taken.length, to
        return before

    def close(self, slot: int) -> int:
        """Give the slot back; its length before."""
        length = self._of(slot).length
        del self._taken[slot]
        return length

    def _of(self, slot: int) -> _Slot:
        if slot not in self._taken:
            raise EngineError(f"slot {slot} of span {self._info.span} is not open")
        return self._taken[slot]

    def _check(self, rows: Rows) -> None:
        slot = self._of(rows.slot)
        if rows.hidden.ndim != 2 or rows.hidden.shape[1] != self._hidden or not len(rows.hidden):
            raise BadRows(f"hidden states {list(rows.hidden.shape)} where [T, {self._hidden}] was expected")
        if rows.position != slot.length:
            raise EngineError(f"position {rows.position} does not continue slot {rows.slot}, which holds {slot.length}")
        if rows.position + len(rows.hidden) > self._info.context_tokens:
            raise EngineError(
                f"{len(rows.hidden)} rows from position {rows.position} are beyond the context of "
                f"{self._info.context_tokens} tokens"
            )
        span = self._info.span
        if not span.start <= rows.enter < rows.exit <= span.end:
            raise EngineError(f"blocks {rows.enter}:{rows.exit} are not within span {span}")
        if slot.way not in (None, (rows.enter, rows.exit)):
            raise EngineError(f"slot {rows.slot} runs blocks {slot.way} and cannot change to {rows.enter}:{rows.exit}")
