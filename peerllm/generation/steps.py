"""The steps of one chain that are under way: sent into the first hop in order, and out of the last one in the same.

A step may be sent before what came out of the one before it is known. If that proves it wrong, the next step just
begins where it began, and so does every hop (docs/protocol.md); what still comes out of it is passed over.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopLost
from peerllm.generation.blame import laggard, miscounted_at, stuck_at
from peerllm.generation.chain_timings import ChainTimings
from peerllm.generation.hearing import Hearing
from peerllm.generation.hop_link import HopLink
from peerllm.generation.read_prompts import Beginning
from peerllm.generation.rounds import Rounds
from peerllm.generation.usage import Timings, Usage
from peerllm.wire.chunks import chunks_of, per_full_chunk
from peerllm.wire.messages import At, Step, Want, Where, WireDtype, WireHidden, wanted_rows
from peerllm.wire.tensor import from_wire, is_sound, to_wire
from peerllm_swarm.routing import Route
from peerllm_swarm.span import PeerId

CHUNKS_AHEAD = 2
"""Chunks in flight beyond one per hop: enough to keep every hop busy, and a bound on what waits there. Of chunks that
are smaller than the largest there are more, so that long links are as full."""

STUCK_ROUNDS = 20
"""A decode step that takes as many times the usual one is stuck somewhere."""

ROW_S = 0.1
"""The same for each row of a prompt, beside what a token may take; slow machines do 50 rows a second."""

PACE_ROUNDS = 16
"""Decode steps after which it is looked at whether a hop has become slow."""

Spare = Callable[[PeerId], bool]
"""Could others do now what this hop does?"""


@dataclass(eq=False)
class StepUnderWay:
    """Rows that were sent, in one frame or several, and what has come out of them."""

    rows: int
    width: int
    end: int
    """The position behind them."""
    due: list[range]
    """Of each frame, the positions of which rows come out."""
    overlapped: bool
    """It was sent before an earlier one had come out."""
    sent_at: float = field(default_factory=time.perf_counter)
    came_at: float = 0.0
    outputs: list[Step] = field(default_factory=list[Step])

    @property
    def is_complete(self) -> bool:
        return len(self.outputs) == len(self.due)


@dataclass(frozen=True)
class Passed:
    """The rows of a step that have come out, and what it took."""

    rows: Hidden  # [T, D]
    round_ms: float
    compute_ms: float
    """Of that, with the hops, waiting for their engines included."""
    overlapped: bool


class Steps:
    """Sends along `route` over `links`, which the chain sets; all that is said in between is for `hearing`."""

    def __init__(
        self, route: Route, hearing: Hearing, *, wire_dtype: WireDtype, timings: ChainTimings, spare: Spare
    ) -> None:
        self.route = route
        self.links: Mapping[PeerId, HopLink] = {}
        self.rounds = Rounds(len(route.hops))
        """Of the decode steps since the route was last changed."""
        self.received: dict[int, Hidden] = {}
        """Rows ``[1, D]`` that have come out, by position, in rising order."""
        self.number = 0
        """Of the frame that was sent last."""
        self.rows_bytes = 0
        self.catching_up = False
        """New hops have yet to read what the lost ones knew."""
        self._hearing = hearing
        self._wire_dtype = wire_dtype
        self._timings = timings
        self._spare = spare
        self._under_way: deque[StepUnderWay] = deque()
        self._busy_since = 0.0
        self._had: list[Timings] = []  # what the hops say since then

    async def send(self, hidden: Hidden, position: int, want: Want) -> StepUnderWay:
        """Put ``[T, D]`` under way; waits only where more is under way than keeps all hops at work."""
        if not len(hidden):
            raise ValueError("a step has at least one row")
        end = position + len(hidden)
        hops = len(self.route.hops)
        frames = _frames(to_wire(hidden, self._wire_dtype), position, want, hops)
        ahead = (hops + CHUNKS_AHEAD) * (per_full_chunk(frames[0][1]) if len(frames) > 1 else 1)
        due = [_positions(first, wanted_rows(len(rows), wanted)) for first, rows, wanted in frames]
        step = StepUnderWay(len(hidden), hidden.shape[1], end, due, overlapped=bool(self._under_way))
        if not self._under_way:
            self._busy_since = step.sent_at
        self._under_way.append(step)
        usage = self._usage()
        for first, rows, wanted in frames:
            while self.number - self._hearing.answered >= ahead:
                await self._come()
            usage.sent(len(rows), rows.shape[1], wanted)
            self.number += 1
            await self.links[self.route.hops[0].peer_id].send(Step(self.number, first, wanted, rows))
            self.rows_bytes += rows.nbytes
        return step

    async def take(self, step: StepUnderWay) -> Passed:
        """What comes out of a step that is under way; those before it, if nobody took them, are passed over."""
        while not step.is_complete:
            await self._come()
        round_s = step.came_at - step.sent_at
        if step.rows == 1 and not step.overlapped:
            self.rounds.add(step.sent_at, step.came_at, step.outputs[0].timings)
            self._look_at_pace()
        else:
            self.rounds.interrupted()
        rows = [await self._checked(*pair, step) for pair in zip(step.outputs, step.due, strict=True)]
        had_us = sum(map(sum, (timing for output in step.outputs for timing in output.timings)))
        together = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return Passed(together, round_s * 1e3, had_us / 1e3, step.overlapped)

    async def begin(self, beginning: Beginning) -> int:
        """Have every hop take over what it holds of these rows, the first of all; how many all hops hold then."""
        self.number += 1
        offer = beginning.offer(self.number)
        await self.links[self.route.hops[0].peer_id].send(offer)
        length = (await self._output(offer.positions[-1])).position
        if length not in (0, *offer.positions):
            raise HopLost(self.route.hops[-1].peer_id, f"holds {length} rows of a prompt, which were not offered")
        return length

    async def settle(self) -> None:
        """Return once nothing is under way any more."""
        while self._under_way:
            await self._come()

    def begin_anew(self) -> int:
        """Forget what is under way: all steps so far are void; the highest number that is."""
        self.number += 1
        self._hearing.begin_anew(self.number)
        self._under_way.clear()
        self._had.clear()
        return self.number

    def back_to(self, position: int) -> None:
        """Forget the rows that came out from there on."""
        while self.received and (last := next(reversed(self.received))) >= position:
            del self.received[last]

    def take_up(self, route: Route, links: Mapping[PeerId, HopLink]) -> None:
        """Send along this route from now on."""
        self.route, self.links = route, links
        self.rounds = Rounds(len(route.hops))

    async def ask_where(self) -> Mapping[PeerId, At]:
        """How far each hop is, by what it says itself; without those that do not say so in time."""
        hearing = self._hearing
        hearing.reports.clear()
        deadline = asyncio.get_running_loop().time() + self._timings.report_s
        for link in self.links.values():
            await link.send(Where())
        while len(hearing.reports) < len(self.links) and await hearing.until(deadline):
            pass
        return hearing.reports

    async def _come(self) -> None:
        """Wait for one more frame's output."""
        step = self._under_way[0]
        step.outputs.append(await self._output(step.rows))
        self._had.append(step.outputs[-1].timings)
        if not step.is_complete:
            return
        step.came_at = time.perf_counter()
        self._under_way.popleft()
        if not self._under_way:
            self._usage().answered(step.came_at - self._busy_since, self._had)
            self._had.clear()

    async def _output(self, rows: int) -> Step:
        """The next output or acknowledgement of the last hop, or the loss of any hop."""
        stuck_s = self._stuck_s(rows)
        allowed_s = self._timings.step_s if rows == 1 and not self.catching_up else self._timings.prefill_s
        loop = asyncio.get_running_loop()
        end = loop.time() + allowed_s
        while not self._hearing.outputs:
            if await self._hearing.until(min(end, loop.time() + stuck_s)):
                continue
            culprit = stuck_at(self.route, await self.ask_where(), self._hearing.answered + 1)
            if self._hearing.outputs:
                break
            if loop.time() >= end or self._spare(culprit):
                raise HopLost(culprit, f"nothing came out within {stuck_s:.0f} s")
        self.catching_up = False
        return self._hearing.next_output()

    def _stuck_s(self, rows: int) -> float:
        """What takes longer hangs somewhere: a token, so many rows of a prompt, or all that a new hop has to read."""
        if self.catching_up:
            return self._timings.prefill_stuck_s
        if rows == 1:
            return max(self._timings.stuck_s, STUCK_ROUNDS * self.rounds.last_ms / 1e3)
        return min(self._timings.stuck_s + ROW_S * rows, self._timings.prefill_stuck_s)

    async def _checked(self, output: Step, positions: range, step: StepUnderWay) -> Hidden:
        """The rows of these positions, noted in `received`; a mere acknowledgement has none."""
        hidden = from_wire(output.hidden)
        last = self.route.hops[-1].peer_id
        if hidden.shape[1] != step.width or not is_sound(hidden):
            raise HopLost(last, "put out no usable hidden state (wrong width or NaN)")
        if range(output.position, output.position + len(hidden)) != positions:
            culprit = miscounted_at(self.route, await self.ask_where(), step.end)
            raise HopLost(culprit, f"put out {len(hidden)} rows from {output.position} on instead of {positions}")
        self.received.update((position, hidden[at : at + 1]) for at, position in enumerate(positions))
        return hidden

    def _look_at_pace(self) -> None:
        """Every now and then: is a hop much slower than it was taken for?"""
        times = self.rounds.recent(PACE_ROUNDS) if self.rounds.made % PACE_ROUNDS == 0 else None
        slow = laggard(self.route, times) if times is not None else None
        unwanted = self._hearing.unwanted
        if slow is not None and slow.peer_id not in unwanted and self._spare(slow.peer_id):
            unwanted[slow.peer_id] = HopLost(slow.peer_id, "much slower than it was")

    def _usage(self) -> Usage:
        return Usage(self.links[hop.peer_id] for hop in self.route.hops)


def _frames(rows: WireHidden, position: int, want: Want, hops: int) -> list[tuple[int, WireHidden, Want]]:
    """The rows as they travel: in each frame the position of its first row, the rows, and what is wanted of them."""
    end = position + len(rows)
    return [
        (position + first, chunk, want if position + first + len(chunk) == end or want is not Want.LAST else Want.NONE)
        for first, chunk in chunks_of(rows, hops)
    ]


def _positions(first: int, rows: range) -> range:
    return range(first + rows.start, first + rows.stop)
