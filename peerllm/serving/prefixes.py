"""What the slots of a span hold, by the rows that went in: a session that begins with the same takes a copy of it.

A digest names rows to whoever has them, and only what came in here is compared: nobody can have a session take over
what was computed of other rows. Who may take what of whom is settled before anything is compared, so that neither an
answer nor the time that it takes tells one asker what another has asked. See docs/adr/0024-prefixes-at-the-hops.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from peerllm.engine.scheduler import StepScheduler
from peerllm.errors import EngineError
from peerllm.serving.history import History, HistoryRoom
from peerllm.wire.messages import Open, Prefixes, Sharing, Step, Want, WireDtype, WireHidden
from peerllm.wire.row_digests import RowDigests
from peerllm.wire.tensor import from_wire
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

LEAST_ROWS = 32
"""Less is as quickly computed as found."""


@dataclass(frozen=True)
class Way:
    """What two sessions must have in common for equal rows to leave equal keys, values and outputs."""

    enter: int
    exit: int
    wire_dtype: WireDtype


@dataclass(eq=False)
class Holding:
    """One slot of the scheduler's, and what is known of the rows that went in and out, from position 0 on."""

    asker: PeerId
    sharing: Sharing
    way: Way
    slot: int
    history: History
    inputs: RowDigests = field(default_factory=RowDigests)
    """Of the rows that no step or call under way can change any more."""
    outputs: RowDigests = field(default_factory=RowDigests)
    """Of what was sent to the next hop."""

    @classmethod
    def of(cls, opened: Open, asker: PeerId, slot: int, room: HistoryRoom) -> Holding:
        """Nothing as yet, for the session that `asker` has opened; what it sends is remembered in `room`."""
        way = Way(opened.enter, opened.exit, opened.wire_dtype)
        return cls(asker, opened.sharing, way, slot, History(room, opened.tokens))

    def begin_as(self, source: Holding, length: int) -> None:
        """The slot has a copy of the first positions of another one."""
        self.inputs.begin_as(source.inputs, length)
        self.outputs.begin_as(source.outputs, length)
        self.history.begin_as(source.history, length)

    def note_sent(self, position: int, rows: WireHidden) -> None:
        """These rows ``[T, D]`` were sent on, the first of them at `position`."""
        if self.sharing is not Sharing.NOBODY:
            self.outputs.note(position, from_wire(rows))

    @property
    def is_worth_keeping(self) -> bool:
        """May another session begin with it, and gain something?"""
        return self.sharing is not Sharing.NOBODY and len(self.inputs) >= LEAST_ROWS

    def offer_on(self, offer: Prefixes, length: int) -> Prefixes:
        """The same for the next hop, as far as this one holds it: by the rows that the next one was sent."""
        positions = tuple(position for position in offer.positions if position <= length)
        digests = list(self.outputs.prefixes(positions))
        return Prefixes(offer.step, positions[: len(digests)], b"".join(digests))

    def back_to(self, position: int) -> None:
        """Nothing came in or went out from there on."""
        self.inputs.back_to(position)
        self.outputs.back_to(position)
        self.history.back_to(position)


async def begin_alike(
    new: Holding, offer: Prefixes, *, others: Callable[[], Collection[Holding]], scheduler: StepScheduler
) -> int:
    """Copy what another slot holds of these rows into the new one; how many positions it holds now."""
    found = longest(new, offer, others())
    if found is None:
        return 0
    source, reach = found
    try:
        await scheduler.fork(source.slot, reach, new.slot)
    except EngineError as error:  # it has gone back or ended: then all rows are computed
        log.info("nothing taken over: %s", error)
        return 0
    new.begin_as(source, reach)
    return reach


def acknowledged(offer: Prefixes, length: int) -> Step:
    """The last hop's answer: so many rows are held all along the route."""
    return Step(offer.step, length, Want.NONE, np.empty((0, 1), np.float32))


def longest(new: Holding, offer: Prefixes, others: Collection[Holding]) -> tuple[Holding, int] | None:
    """Whose rows to begin with, and how many: the most of those that are offered."""
    best: tuple[Holding, int] | None = None
    for other in others:
        if other is new or other.way != new.way or not may_take(new, other):
            continue
        reach = _common(other, offer)
        if reach > (best[1] if best else 0):
            best = other, reach
    return best


def may_take(new: Holding, other: Holding) -> bool:
    """Do both askers allow it?"""
    if new.asker == other.asker:
        return Sharing.NOBODY not in (new.sharing, other.sharing)
    return new.sharing is other.sharing is Sharing.MEMBERS


def _common(held: Holding, offer: Prefixes) -> int:
    reach = 0
    for at, digest in enumerate(held.inputs.prefixes(offer.positions)):
        if digest != offer.digest(at):
            break
        reach = offer.positions[at]
    return reach
