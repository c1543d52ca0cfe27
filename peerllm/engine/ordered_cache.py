"""A llama.cpp cache in which every session's tokens lie in their order, whatever else comes and goes.

Attention adds up a session's keys in the order of their cells, so the last bits of its numbers depend on that order.
llama.cpp puts new rows into the holes that ended sessions leave, in front of what a session has there already: the
same session then computed other numbers among others than alone, and a seed drew other tokens. So cells of ended
sessions are only given back from the top; those below stay taken until the rest is moved together.
"""

from __future__ import annotations

from collections import Counter

from peerllm.engine.llama_context import LlamaContext

MAX_SEQUENCES = 256
"""llama.cpp's own limit (LLAMA_MAX_SEQ)."""

SPARE_SEQUENCES = 8
"""Beyond one per slot: cells of an ended session keep the sequence that they belong to."""

LEAST_RETIRED = 512
"""Cells that may be taken for nothing before the rest is moved together; attention only passes over them."""


SPLIT_CELLS = 256
"""From one more on llama.cpp shows two steps of 256 cells to attention, which ggml then splits over its threads for a
lone row, and for no others: its sums come out in another order."""


def sequences_for(slots: int) -> int:
    """How many sequences a cache for so many slots should have."""
    return min(MAX_SEQUENCES, slots + SPARE_SEQUENCES + 1)


class OrderedCache:
    """Which sequence is a slot's, and whose every cell is, from the first one to the highest in use."""

    def __init__(self, context: LlamaContext, slots: int) -> None:
        """`context` was opened with `sequences_for` these slots."""
        self._context = context
        self._cells = context.tokens
        self._unused = list(range(sequences_for(slots)))
        self._sequences: dict[int, int] = {}  # by slot
        self._starts: dict[int, int] = {}  # the first position that is in a sequence's cells
        self._owners: list[int] = []
        self._counts = Counter[int]()  # cells of each sequence
        self._companion = self._unused.pop() if len(self._unused) > slots + 1 else None

    def make_room(self, rows: int) -> None:
        """Before so many rows are computed."""
        live = self._live_cells()
        full = len(self._owners) + rows > self._cells
        if full or len(self._owners) - live > max(LEAST_RETIRED, live):
            self._compact()

    def sequence(self, slot: int) -> int:
        """The one that holds the slot's session."""
        if slot not in self._sequences:
            if not self._unused:
                self._compact()
            self._sequences[slot] = self._take(0)
        return self._sequences[slot]

    def companion(self) -> int | None:
        """The sequence of a second row that a lone one should have beside it; None if it is as well alone.

        So it is, on several threads, computed as among others. In the last cell of all there is no room for two, nor
        with as many slots as llama.cpp has sequences.
        """
        end = len(self._owners) + 1
        needed = SPLIT_CELLS < end < self._cells and self._context.may_split
        return self._companion if needed else None

    def note(self, slot: int, rows: int) -> None:
        """So many rows of the slot have been computed, behind all that were before."""
        self._owners += [self._sequences[slot]] * rows
        self._counts[self._sequences[slot]] += rows

    def copy(self, slot: int, to: int, into: int) -> None:
        """The slot's tokens before position `to` into another one that has none, in cells of its own; `EngineError`.

        Cells that two sessions have in common would be cheaper, but no order of the cells serves both once one of them
        has to be moved. docs/adr/0024 has what the copy costs.
        """
        self.make_room(to)
        other = self.sequence(into)
        self._context.share(self._sequences[slot], other, 0, to)
        self._context.move(other)
        self.note(into, to)

    def forget(self, slot: int, to: int) -> None:
        """Drop the slot's tokens from position `to` on."""
        if slot not in self._sequences:
            return
        if to:
            self._retire_tail(self._sequences[slot], to)
        else:
            del self._sequences[slot]
        self._give_back()

    def _retire_tail(self, sequence: int, to: int) -> None:
        """Leave the cells behind position `to` to a sequence of their own, which nobody reads."""
        if not self._unused:
            self._compact()
        retired = self._take(to)
        self._context.share(sequence, retired, to)
        self._context.forget(sequence, to)
        tail = [cell for cell, owner in enumerate(self._owners) if owner == sequence][to:]
        for cell in tail:
            self._owners[cell] = retired
        self._counts[sequence] -= len(tail)
        self._counts[retired] = len(tail)

    def _give_back(self) -> None:
        """Free the cells at the top that no session has."""
        live, freed = set(self._sequences.values()), set[int]()
        while self._owners and self._owners[-1] not in live:
            owner = self._owners.pop()
            self._counts[owner] -= 1
            freed.add(owner)
        for sequence in freed:
            self._context.forget(sequence, self._starts[sequence] + self._counts[sequence])
        for sequence in [one for one in self._starts if one not in live and not self._counts[one]]:
            self._put_back(sequence)

    def _compact(self) -> None:
        """Free every cell that no session has, and move each session into the lowest free ones, lowest first."""
        live = set(self._sequences.values())
        for sequence in self._starts.keys() - live:
            self._context.forget(sequence, 0)
            self._put_back(sequence)
        moved = [sequence for sequence in dict.fromkeys(self._owners) if sequence in live]
        self._owners = [sequence for sequence in moved for _ in range(self._counts[sequence])]
        for sequence in moved:
            self._context.move(sequence)

    def _live_cells(self) -> int:
        return sum(self._counts[sequence] for sequence in self._sequences.values())

    def _take(self, start: int) -> int:
        sequence = self._unused.pop()
        self._starts[sequence] = start
        return sequence

    def _put_back(self, sequence: int) -> None:
        del self._starts[sequence], self._counts[sequence]
        self._unused.append(sequence)
