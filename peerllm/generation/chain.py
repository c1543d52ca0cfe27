"""The open streams of one route: a step goes in at the first hop and comes out of the last one.

When a hop is lost its blocks alone are covered anew (`Chain.mend`, docs/adr/0011): the hop before it still has what it
had sent, and sends that to the replacement; all others go back to where the lost step began. See docs/protocol.md.
What is under way is counted and awaited in `steps`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HistoryLost, HopLost
from peerllm.generation.chain_timings import ChainTimings
from peerllm.generation.hearing import Hearing
from peerllm.generation.hop_link import HopLink, close_links, finish, open_links
from peerllm.generation.read_prompts import Beginning
from peerllm.generation.rounds import Rounds
from peerllm.generation.steps import Passed, Spare, Steps, StepUnderWay
from peerllm.generation.usage import Usage
from peerllm.generation.wiring import Addresses, SessionTerms, openings, resumptions
from peerllm.giving.books import Books
from peerllm.wire.chunks import chunks_of
from peerllm.wire.codec import frame_bytes
from peerllm.wire.messages import (
    Digest,
    Digested,
    Extend,
    Failed,
    Open,
    Recall,
    Rest,
    Sharing,
    Step,
    Want,
    WireDtype,
    new_session_id,
)
from peerllm.wire.tensor import to_wire
from peerllm.wire.transport import Transport
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import PeerId


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
        sharing: Sharing,
    ) -> None:
        """For `open_chain` only."""
        self.begun = 0
        """Rows that the hops held of the session's first ones when it was opened: they need not be sent."""
        self.blamed: set[PeerId] = set()
        """Hops that were lost: nothing that was measured of them speaks for them."""
        self.joined: dict[PeerId, int] = {}
        """From which position on each hop has sent on what it computed; before, another one did."""
        self._transport = transport
        self._terms = SessionTerms(new_session_id(), tokens, wire_dtype, sharing)
        self._timings = timings
        self._links: dict[PeerId, HopLink] = {}
        self._books = books
        self._hearing = Hearing(route.hops[-1].peer_id)
        self._steps = Steps(route, self._hearing, wire_dtype=wire_dtype, timings=timings, spare=spare)
        self._closing: set[asyncio.Task[None]] = set()
        self._frames_before = 0  # the present answer

    @property
    def route(self) -> Route:
        return self._steps.route

    @property
    def rounds(self) -> Rounds:
        """Of the decode steps since the route was last changed."""
        return self._steps.rounds

    @property
    def received(self) -> Mapping[int, Hidden]:
        """Rows ``[1, D]`` that have come out, by position."""
        return self._steps.received

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
        return self._steps.rows_bytes + (self._steps.number - self._frames_before) * frame_bytes(timings=hop)

    async def open(self, addresses: Addresses) -> None:
        """Open every hop; raises `HopLost`."""
        self._links = await self._opened(self.route, self.route.hops, addresses, 0)
        self._steps.take_up(self.route, self._links)

    async def begin(self, beginning: Beginning) -> None:
        """Go on from what every hop holds of these rows (`begun`), before the first step; raises `HopLost`."""
        if beginning.positions:
            self.begun = await self._steps.begin(beginning)

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
        return (await self.take(await self.send(hidden, position, want))).rows

    async def send(self, hidden: Hidden, position: int, want: Want) -> StepUnderWay:
        """The first half of `step`; others may be sent before its rows are taken, each behind the one before.

        One that begins earlier makes void what was sent from there on, at every hop; raises `HopLost` like `step`.
        """
        return await self._steps.send(hidden, position, want)

    async def take(self, step: StepUnderWay) -> Passed:
        """The second half, in the order of sending; what nobody takes is passed over."""
        return await self._steps.take(step)

    async def settle(self, deadline: float) -> bool:
        """Pass over all that is under way; False if that is still some at the deadline (of the loop's clock)."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._steps.settle()
        except TimeoutError:
            return False
        return True

    def back_to(self, position: int) -> None:
        """What came out from there on was made of rows that are no part of the answer."""
        self._steps.back_to(position)

    def learnt(self) -> None:
        """What was measured of the rounds is known to whoever wanted it: begin to measure anew."""
        self._steps.rounds = Rounds(len(self.route.hops))

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
        after = self._steps.begin_anew()
        for link in self._links.values():
            await link.send(Extend(position, after, tokens))
        await self._all_resumed(self.route.hops, after, self._timings.extend_s)
        self._terms = replace(self._terms, tokens=tokens)
        self.learnt()
        self.back_to(position)
        self.joined = {peer: min(at, position) for peer, at in self.joined.items()}
        self._frames_before, self._steps.rows_bytes = after, 0

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
        after = self._steps.begin_anew()  # what is still said of an earlier attempt is void as well
        spans = {hop.peer_id: hop.span for hop in self.route.hops if hop.peer_id not in gone}
        kept = [hop for hop in route.hops if spans.get(hop.peer_id) == hop.span]
        new = [hop for hop in route.hops if hop not in kept]
        if any(hop.peer_id in self._links for hop in new):
            raise HistoryLost(new[0].peer_id, "a hop would have to change its blocks within the session")
        opening = asyncio.create_task(self._opened(route, new, addresses, position))
        resuming = asyncio.create_task(self._resume(route, kept, addresses, position, after))
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
        self._steps.catching_up = position > 0
        if route.hops[0] in new:
            for first, rows in chunks_of(to_wire(history, self._terms.wire_dtype)):
                await self._links[route.hops[0].peer_id].send(Step(after, first, Want.NONE, rows))

    async def _resume(
        self, route: Route, kept: Collection[Hop], addresses: Addresses, position: int, after: int
    ) -> None:
        """Have the hops that stay go back to `position` and take their new neighbours."""
        hearing = self._hearing
        told = resumptions(route, kept, addresses, hearing.wired, position=position, after=after)
        for hop, resume in list(told):
            hearing.wired[hop.peer_id] = resume.next
            await self._links[hop.peer_id].send(resume)
        await self._all_resumed(kept, after, self._timings.step_s)

    async def _all_resumed(self, hops: Collection[Hop], after: int, within_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + within_s
        while missing := [hop for hop in hops if self._hearing.resumed.get(hop.peer_id) != after]:
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
        self._links = links
        self._steps.take_up(route, links)
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
    beginning: Beginning = Beginning(),  # noqa: B008 - frozen
) -> AsyncIterator[Chain]:
    """A KV slot at every hop of the route and the links between them, all given back at the end.

    Raises:
        HopLost: a hop cannot be reached, refuses, or does not answer within `timings.open_s`.
    """
    chain = Chain(
        route,
        transport,
        tokens=tokens,
        wire_dtype=wire_dtype,
        timings=timings,
        spare=spare,
        books=books,
        sharing=beginning.sharing,
    )
    await chain.open(addresses)
    try:
        await chain.begin(beginning)
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
