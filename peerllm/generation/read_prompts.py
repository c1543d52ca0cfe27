"""Which prompts were read for this asker lately, and by which route: one that begins alike is not read again.

The hops find what they hold by digests of rows (docs/adr/0024-prefixes-at-the-hops.md). To ask them costs a round
along the route, so only a prompt is offered of which something is known to lie there, unless members share theirs.
Several answers to one prompt have it read once: the others wait for the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from peerllm.engine.span_engine import Hidden
from peerllm.wire.messages import MAX_PREFIXES, Prefixes, Sharing, WireDtype
from peerllm.wire.row_digests import RowDigests, digests_of
from peerllm.wire.tensor import from_wire, to_wire
from peerllm_swarm.routing import Route

LEAST_ROWS = 32
"""In common: less is as quickly computed as asked for."""

GRID = 16
"""Rows between two offered positions of a short prompt."""

AT_MOST = 64
"""Prompts that are remembered: 16 bytes for each row."""


@dataclass(frozen=True)
class Beginning:
    """How a new chain begins: with what its hops hold of these rows, along this route if it still stands."""

    sharing: Sharing = Sharing.NOBODY
    along: Route | None = None
    rows: RowDigests = field(default_factory=RowDigests)
    positions: tuple[int, ...] = ()

    def offer(self, step: int) -> Prefixes:
        return Prefixes(step, self.positions, b"".join(self.rows.prefixes(self.positions)))


@dataclass(eq=False)
class _Read:
    """A prompt, and the route whose hops have read it; until it is `done` they are about to."""

    key: Hashable
    rows: RowDigests
    route: Route | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class ReadPrompts:
    """Those of one asker, the one that was of use last comes last."""

    def __init__(self, sharing: Sharing) -> None:
        """`sharing` is with whom prompts are shared at the hops; NOBODY has each read for itself."""
        self._sharing = sharing
        self._reads: list[_Read] = []

    def prompt(self, key: Hashable, wire_dtype: WireDtype, *, restricted: bool) -> Prompt:
        """One that is about to be read.

        Args:
            key: what has to be the same for another prompt to begin with it.
            restricted: not everybody may take part: then nobody else may share it either.
        """
        return Prompt(self, key, wire_dtype, min(self._sharing, Sharing.ASKER) if restricted else self._sharing)

    def best(self, key: Hashable, rows: RowDigests) -> tuple[_Read | None, int]:
        """What has most rows in common with these, and how many."""
        common = [(each.rows.common(rows), each) for each in self._reads if each.key == key]
        length, read = max(common, key=lambda pair: pair[0], default=(0, None))
        return (read, length) if length >= LEAST_ROWS else (None, 0)

    def use(self, read: _Read) -> None:
        """It is the last one to be forgotten."""
        self.forget(read)
        self._reads.append(read)
        for old in [each for each in self._reads if each.done.is_set()][:-AT_MOST]:
            self.forget(old)

    def forget(self, read: _Read) -> None:
        if read in self._reads:
            self._reads.remove(read)


class Prompt:
    """One answer's prompt, from before it is read until its first token; `close` it in any case."""

    def __init__(self, read: ReadPrompts, key: Hashable, wire_dtype: WireDtype, sharing: Sharing) -> None:
        """For `ReadPrompts.prompt` only."""
        self._read = read
        self._key = key
        self._wire_dtype = wire_dtype
        self._reading: _Read | None = None
        self.route: Route | None = None
        """Whose hops have it read; set by whoever opens the chain."""
        self.beginning = Beginning(sharing)

    async def look(self, hidden: Hidden) -> None:
        """Find out what is known of these rows ``[T, D]``, once nobody else is about to have most of them read."""
        sharing = self.beginning.sharing
        if sharing is Sharing.NOBODY or len(hidden) <= LEAST_ROWS:
            return
        rows = await asyncio.to_thread(lambda: digests_of(from_wire(to_wire(hidden, self._wire_dtype))))
        while True:
            known, common = self._read.best(self._key, rows)
            if known is None or known.done.is_set() or 2 * common < len(rows):
                break
            await known.done.wait()
        if len(rows) - common >= LEAST_ROWS:
            self._reading = _Read(self._key, rows)
            self._read.use(self._reading)
        if known is not None and known.done.is_set():
            self._read.use(known)
        elif sharing is not Sharing.MEMBERS:
            return
        along = known.route if known is not None and 2 * common >= len(rows) else None
        self.beginning = Beginning(sharing, along, rows, offered(len(rows) - 1, common))

    def been_read(self) -> None:
        """The hops of `route` hold it."""
        if self._reading is not None and self.route is not None:
            self._reading.route = self.route
            self._reading.done.set()
            self._reading = None

    def close(self) -> None:
        """If it was not read, others read theirs themselves."""
        if self._reading is not None:
            self._read.forget(self._reading)
            self._reading.done.set()
            self._reading = None


def offered(last: int, known: int = 0) -> tuple[int, ...]:
    """Positions up to `last` at which hops are asked for what they hold, `known` and the last one among them."""
    grid = GRID * -(-last // (GRID * (MAX_PREFIXES - 2)))
    return tuple(sorted({*range(grid, last, grid), last, *((known,) if 0 < known < last else ())}))
