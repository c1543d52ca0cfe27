"""The open streams of one route: a step goes in at the first hop and comes out of the last one.

When a hop is lost its blocks alone are covered anew (`Chain.mend`, docs/adr/0011): the hop before it still has what it
had sent, and sends that to the replacement; all others go back to where the lost step began. See docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HistoryLost, HopLost
from peerllm.generation.blame import laggard, miscounted_at, stuck_at
from peerllm.generation.chain_timings import ChainTimings
from peerllm.generation.hearing import Hearing
from peerllm.generation.hop_link import HopLink, close_links, finish, open_links
from peerllm.generation.rounds import Rounds
from peerllm.generation.usage import Usage
from peerllm.generation.wiring import Addresses, SessionTerms, openings, resumptions
from peerllm.giving.books import Books
from peerllm.wire.chunks import chunks_of
from peerllm.wire.codec import frame_bytes
from peerllm.wire.messages import (
    At,
    Digest,
    Digested,
    Extend,
    Failed,
    Open,
    Recall,
    Rest,
    Step,
    Want,
    Where,
    WireDtype,
    WireHidden,
    new_session_id,
)
from peerllm.wire.tensor import from_wire, is_sound, to_wire
from peerllm.wire.transport import Transport
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

CHUNKS_AHEAD = 2
"""Chunks in flight beyond one per hop: enough to keep every hop busy, and a bound on what waits there."""

STUCK_ROUNDS = 20
"""A decode step that takes as many times the usual one is stuck somewhere."""

ROW_S = 0.1
"""The same for each row of a prompt, beside what a token may take; slow machines do 50 rows a second."""

PACE_ROUNDS = 16
"""Decode steps after which it is looked at whether a hop has become slow."""

Spare = Callable[[PeerId], bool]
"""Could others do now what this hop does?"""


def _nobody(_: PeerId) -> bool:
    return False


class Chain:
    """Every hop of `route`, opened for one session; made by `open_chain`."""

    def __init__(
        self,
        route: Route,
        transport: Transport,
        *,
        tokens: int,
        wire_dtype: WireDtype,
        timings: ChainTimings,
        spare: Spare,
        books: Books | None,
    ) -> None:
        """For `open_chain` only."""
        self.route = route
        self.rounds = Rounds(len(route.hops))
        """Of the decode steps since the route was last changed."""
        self.blamed: set[PeerId] = set()
        """Hops that were lost: nothing that was measured of them speaks for them."""
        self.joined: dict[PeerId, int] = {}
        """From which position on each hop has sent on what it computed; before, another one did."""
        self.received: dict[int, Hidden] = {}
        """Rows ``[1, D]`` that have come out, by position."""
        self._transport = transport
        self._terms = SessionTerms(new_session_id(), tokens, wire_dtype)
        self._timings = timings
        self._spare = spare
        self._links: dict[PeerId, HopLink] = {}
        self._books = books
        self._hearing = Hearing(route.hops[-1].peer_id)
        self._closing: set[asyncio.Task[None]] = set()
        self._catching_up = False  # new hops have yet to read what the lost ones knew
        self._steps = self._steps_before = 0  # before the present answer
        self._rows_bytes = 0

    @property
    def unwanted(self) -> dict[PeerId, HopLost]:
        """Hops that still do their work but should be replaced at leisure, and why."""
        return self._hearing.unwanted

    @property
    def rtt_ms(self) -> Mapping[PeerId, float]:
        """Measured by the heartbeats so far."""
        measured = {peer: link.stream.rtt_ms for peer, link in self._links.items()}
        return {peer: rtt_ms for peer, rtt_ms in measured.items() if rtt_ms is not None}

    def input_bytes(self, hop: int) -> int:
        """Bytes of this answer's rows on their way into that hop, counted from 0; without replays."""
        return self._rows_bytes + (self._steps - self._steps_before) * frame_bytes(timings=hop)

    async def open(self, addresses: Addresses) -> None:
        """Open every hop; raises `HopLost`."""
        self._links = await self._opened(self.route, self.route.hops, addresses, 0)

    async def close(self) -> None:
        """Free everything at every hop, even if cancelled meanwhile."""
        await close_links(self._links.values())
        if self._closing:
            await finish(_all_of(self._closing))

    async def step(self, hidden: Hidden, position: int, want: Want = Want.LAST) -> Hidden:
        """Push ``[T, D]`` through every hop; the last row ``[1, D]`` of what comes out, or all rows if so wanted.

        Raises:
            HopLost: a hop is gone, fell silent, failed, missed its deadline or put out rubbish; what the hops hold
                behind `position` is unknown until the chain is mended.
        """
        started_at = time.perf_counter()
        usage = Usage(self._links[hop.peer_id] for hop in self.route.hops)
        ahead = len(self.route.hops) + CHUNKS_AHEAD
        end, due, outputs = position + len(hidden), list[range](), list[Step]()
        for first, rows in chunks_of(to_wire(hidden, self._terms.wire_dtype)):
            if len(due) - len(outputs) == ahead:
                outputs.append(await self._output(len(hidden)))
            positions = range(position + first, position + first + len(rows))
            wanted = want if positions.stop == end or want is Want.ALL else Want.NONE
            usage.sent(len(rows), rows.shape[1], wanted)
            await self._send(positions.start, rows, wanted)
            due.append({Want.NONE: positions[:0], Want.LAST: positions[-1:], Want.ALL: positions}[wanted])
        while len(outputs) < len(due):
            outputs.append(await self._output(len(hidden)))
        if not outputs:
            raise ValueError("a step has at least one row")
        usage.answered(time.perf_counter() - started_at, outputs)
        if len(hidden) == 1:
            self.rounds.add(started_at, time.perf_counter(), outputs[0].timings)
            self._look_at_pace()
        rows = [await self._checked(*pair, end, hidden.shape[1]) for pair in zip(outputs, due, strict=True)]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    async def rest(self, deadline: float) -> None:
        """Let the hops have their slots back if others need them; only `extend` and `close` may follow.

        Returns at the deadline (of the loop's clock), or when a hop is about to leave.

        Raises:
            HopLost: a hop is gone, or has given the slot away.
        """
        for link in self._links.values():
            await link.send(Rest())
        while not self.unwanted and await self._hearing.until(deadline):
            pass

    async def extend(self, position: int, tokens: int) -> None:
        """Go on from an earlier position for another answer, with room for so many tokens.

        Raises:
            HopLost: a hop does not take the session up again; the chain is of no more use.
        """
        self._steps += 1
        self._hearing.begin_anew(self._steps)
        for link in self._links.values():
            await link.send(Extend(position, self._steps, tokens))
        await self._all_resumed(self.route.hops, self._timings.extend_s)
        self._terms = replace(self._terms, tokens=tokens)
        self.rounds = Rounds(len(self.route.hops))
        self.received = {at: row for at, row in self.received.items() if at < position}
        self.joined = {peer: min(at, position) for peer, at in self.joined.items()}
        self._steps_before, self._rows_bytes = self._steps, 0

    async def ask(
        self, peer: PeerId, question: Recall | Digest, deadline: float
    ) -> AsyncGenerator[Step | Digested | Failed]:
        """What that hop says to it, behind the session's last step; its answer may be in several parts.

        Raises:
            HopLost: it says no more by the deadline (of the loop's clock), or any hop is lost.
        """
        hearing = self._hearing
        hearing.asked = peer
        hearing.replies.clear()
        await self._links[peer].send(question)
        while True:
            while hearing.replies:
                yield hearing.replies.popleft()
            if not await hearing.until(deadline):
                raise HopLost(peer, f"did not answer {type(question).__name__}")

    async def _send(self, position: int, rows: WireHidden, want: Want) -> None:
        self._steps += 1
        await self._links[self.route.hops[0].peer_id].send(Step(self._steps, position, want, rows))
        self._rows_bytes += rows.nbytes

    async def _output(self, rows: int) -> Step:
        """The next output or acknowledgement of the last hop, or the loss of any hop."""
        stuck_s = self._stuck_s(rows)
        allowed_s = self._timings.step_s if rows == 1 and not self._catching_up else self._timings.prefill_s
        loop = asyncio.get_running_loop()
        end = loop.time() + allowed_s
        while not self._hearing.outputs:
            if await self._hearing.until(min(end, loop.time() + stuck_s)):
                continue
            culprit = stuck_at(self.route, await self._ask_where(), self._hearing.answered + 1)
            if self._hearing.outputs:
                break
            if loop.time() >= end or self._spare(culprit):
                raise HopLost(culprit, f"nothing came out within {stuck_s:.0f} s")
        self._catching_up = False
        return self._hearing.next_output()

    def _stuck_s(self, rows: int) -> float:
        """What takes longer hangs somewhere: a token, so many rows of a prompt, or all that a new hop has to read."""
        if self._catching_up:
            return self._timings.prefill_stuck_s
        if rows == 1:
            return max(self._timings.stuck_s, STUCK_ROUNDS * self.rounds.last_ms / 1e3)
        return min(self._timings.stuck_s + ROW_S * rows, self._timings.prefill_stuck_s)

    async def _checked(self, output: Step, positions: range, end: int, width: int) -> Hidden:
        """The rows of these positions, noted in `received`; a mere acknowledgement has none. `end` is the step's."""
        hidden = from_wire(output.hidden)
        last = self.route.hops[-1].peer_id
        if hidden.shape[1] != width or not is_sound(hidden):
            raise HopLost(last, "put out no usable hidden state (wrong width or NaN)")
        if range(output.position, output.position + len(hidden)) != positions:
            culprit = miscounted_at(self.route, await self._ask_where(), end)
            raise HopLost(culprit, f"put out {len(hidden)} rows from {output.position} on instead of {positions}")
        self.received.update((position, hidden[at : at + 1]) for at, position in enumerate(positions))
        return hidden

    def _look_at_pace(self) -> None:
        """Every now and then: is a hop much slower than it was taken for?"""
        times = self.rounds.recent(PACE_ROUNDS) if self.rounds.made % PACE_ROUNDS == 0 else None
        slow = laggard(self.route, times) if times is not None else None
        if slow is not None and slow.peer_id not in self.unwanted and self._spare(slow.peer_id):
            self.unwanted[slow.peer_id] = HopLost(slow.peer_id, "much slower than it was")

    async def _ask_where(self) -> Mapping[PeerId, At]:
        """How far each hop is, by what it says itself; without those that do not say so in time."""
        hearing = self._hearing
        hearing.reports.clear()
        deadline = asyncio.get_running_loop().time() + self._timings.report_s
        for link in self._links.values():
            await link.send(Where())
        while len(hearing.reports) < len(self._links) and await hearing.until(deadline):
            pass
        return hearing.reports

    async def mend(self, route: Route, addresses: Addresses, gone: AbstractSet[PeerId], history: Hidden) -> None:
        """Go on along `route`, in which others do the blocks of the hops that are `gone`.

        `history` ``[P, D]`` is what went into the first hop before the step that was lost, which may be
        repeated afterwards. May be called again, with more hops gone, if it fails.

        Raises:
            HopLost: another hop cannot be opened (`HopBusy` if it is just full) or does not follow.
            HistoryLost: the chain is of no more use, as no hop remembers what a lost one had been sent.
        """
        position = len(history)
        Usage(self._links.values()).broken_off()
        for peer in gone & self._links.keys():
            self._hearing.give_up(self._links[peer])
        self._steps += 1  # what is still said of an earlier attempt is void as well
        self._hearing.begin_anew(self._steps)
        spans = {hop.peer_id: hop.span for hop in self.route.hops if hop.peer_id not in gone}
        kept = [hop for hop in route.hops if spans.get(hop.peer_id) == hop.span]
        new = [hop for hop in route.hops if hop not in kept]
        if any(hop.peer_id in self._links for hop in new):
            raise HistoryLost(new[0].peer_id, "a hop would have to change its blocks within the session")
        opening = asyncio.create_task(self._opened(route, new, addresses, position))
        resuming = asyncio.create_task(self._resume(route, kept, addresses, position))
        try:
            await asyncio.wait((opening, resuming), return_when=asyncio.FIRST_EXCEPTION)
            for task in (opening, resuming):
                if task.done():
                    task.result()
            opened, _ = opening.result(), resuming.result()
        except BaseException:
            await finish(_abandoned(opening, resuming))
            for hop in new:
                self._hearing.wired.pop(hop.peer_id, None)
            raise
        Usage(opened.values()).sent(position, history.shape[1], Want.NONE)
        self._take_up(route, {**opened, **{hop.peer_id: self._links[hop.peer_id] for hop in kept}})
        self._catching_up = position > 0
        if route.hops[0] in new:
            for first, rows in chunks_of(to_wire(history, self._terms.wire_dtype)):
                await self._links[route.hops[0].peer_id].send(Step(self._steps, first, Want.NONE, rows))

    async def _resume(self, route: Route, kept: Collection[Hop], addresses: Addresses, position: int) -> None:
        """Have the hops that stay go back to `position` and take their new neighbours."""
        hearing = self._hearing
        told = resumptions(route, kept, addresses, hearing.wired, position=position, after=self._steps)
        for hop, resume in list(told):
            hearing.wired[hop.peer_id] = resume.next
            await self._links[hop.peer_id].send(resume)
        await self._all_resumed(kept, self._timings.step_s)

    async def _all_resumed(self, hops: Collection[Hop], within_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + within_s
        while missing := [hop for hop in hops if self._hearing.resumed.get(hop.peer_id) != self._steps]:
            if not await self._hearing.until(deadline):
                raise HopLost(missing[0].peer_id, f"did not resume the session within {within_s:.0f} s")

    async def _opened(
        self, route: Route, new: Collection[Hop], addresses: Addresses, position: int
    ) -> dict[PeerId, HopLink]:
        """Links to these hops of the route, for sessions whose outputs before `position` were passed on by others."""
        wanted: list[tuple[PeerId, tuple[str, ...], Open]] = []
        for hop, message in openings(route, new, addresses, self._terms, position):
            self._hearing.wired[hop.peer_id] = message.next
            self.joined[hop.peer_id] = position
            wanted.append((hop.peer_id, addresses.get(hop.peer_id, ()), message))
        return await open_links(wanted, self._transport, self._hearing.heard, self._timings.open_s, self._books)

    def _take_up(self, route: Route, links: dict[PeerId, HopLink]) -> None:
        """Use this route from now on, and close what does not belong to it."""
        for peer, link in self._links.items():
            if links.get(peer) is not link:
                closing = asyncio.create_task(link.close())
                self._closing.add(closing)
                self._hearing.give_up(link)
                closing.add_done_callback(self._closing.discard)
        self.route, self._links, self.rounds = route, links, Rounds(len(route.hops))
        self._hearing.last = route.hops[-1].peer_id
        for peer in self.unwanted.keys() - links.keys():
            del self.unwanted[peer]


@asynccontextmanager
async def open_chain(
    route: Route,
    addresses: Addresses,
    transport: Transport,
    *,
    tokens: int,
    wire_dtype: WireDtype,
    timings: ChainTimings,
    spare: Spare = _nobody,
    books: Books | None = None,
) -> AsyncIterator[Chain]:
    """A KV slot at every hop of the route and the links between them, all given back at the end.

    Raises:
        HopLost: a hop cannot be reached, refuses, or does not answer within `timings.open_s`.
    """
    chain = Chain(route, transport, tokens=tokens, wire_dtype=wire_dtype, timings=timings, spare=spare, books=books)
    await chain.open(addresses)
    try:
        yield chain
    finally:
        await chain.close()


async def _all_of(tasks: Collection[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _abandoned(opening: asyncio.Task[dict[PeerId, HopLink]], resuming: asyncio.Task[None]) -> None:
    """End both, and close what has been opened."""
    for task in (opening, resuming):
        task.cancel()
    links, _ = await asyncio.gather(opening, resuming, return_exceptions=True)
    if isinstance(links, dict):
        await asyncio.gather(*(link.close() for link in links.values()))
