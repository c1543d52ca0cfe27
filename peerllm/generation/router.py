"""Routes for one model over the view of this instant, and what was learnt from the last ones."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopBusy, HopLeaves, HopLost, ModelLoading, NoPeers
from peerllm.generation.answer import Doing
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.kept_sessions import KeptSession, KeptSessions
from peerllm.generation.read_prompts import Beginning, Prompt, ReadPrompts
from peerllm.generation.route_terms import RouteTerms, Trusted, admitted, strangers
from peerllm.giving.books import Books
from peerllm.measured import Measured
from peerllm.presence import Presence
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport
from peerllm_swarm.errors import NoRoute
from peerllm_swarm.health import Verdict
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.routing import Asker, Route, choose_route, find_route, recover
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

T = TypeVar("T")

COMING = (PeerState.ANNOUNCED, PeerState.CLAIMED, PeerState.LOADING)
"""States of peers that will serve soon."""

BUSY_PAUSE_S = 0.25
"""Before a full peer is asked again: short beside an answer, long beside a refusal."""


class Router:
    """Where this asker's chains come from; shared by all of its sessions."""

    def __init__(
        self,
        presence: Presence,
        transport: Transport,
        measured: Measured,
        timings: ChainTimings,
        wire_dtype: WireDtype,
        *,
        repair_s: float,
        trusted: Trusted = Trusted(),  # noqa: B008 - frozen
        terms: RouteTerms = RouteTerms(),  # noqa: B008 - frozen
        books: Books | None = None,
    ) -> None:
        """`measured` learns from every answer; `repair_s` is how long one waits for missing blocks to be served.

        Routes go by `terms`, for which `trusted` says whom the owner trusts. `books` count what the hops do.
        """
        self._presence = presence
        self._transport = transport
        self._measured = measured
        self._timings = timings
        self._wire_dtype = wire_dtype
        self._repair_s = repair_s
        self._trusted = trusted
        self._terms = terms
        self._books = books

    def under(self, terms: RouteTerms) -> Router:
        """This router for answers that go by these terms."""
        if terms == self._terms:
            return self
        return Router(
            self._presence,
            self._transport,
            self._measured,
            self._timings,
            self._wire_dtype,
            repair_s=self._repair_s,
            trusted=self._trusted,
            terms=terms,
            books=self._books,
        )

    def name_of(self, peer: PeerId) -> str:
        """What the peer calls its machine; empty if it is out of sight."""
        record = self._record(peer)
        return record.name if record is not None else ""

    def choose(self, fingerprints: Sequence[str], blocks: int) -> str:
        """The fingerprint with the cheapest route now.

        Raises:
            ModelLoading: nobody covers the model, but peers are about to; NoPeers: they are not.
        """
        view = self._view()
        try:
            route = choose_route(
                view, fingerprints, blocks, has_ends=lambda _: True, asker=self._measured.asker, tokens=1
            )
        except NoRoute as none:
            if any(record.fingerprint in fingerprints and record.state in COMING for record in view.records):
                raise ModelLoading(self._explained(none)) from none
            raise NoPeers(self._explained(none)) from none
        return route.fingerprint

    def room_tokens(self, fingerprint: str, blocks: int) -> int:
        """The most tokens that a session may hold along any route, 0 if there is none."""
        rooms = sorted({record.cache_tokens_left for record in self._view().of(fingerprint)})
        too_large = bisect_left(rooms, True, key=lambda tokens: not self._has_route(fingerprint, blocks, tokens))
        return rooms[too_large - 1] if too_large else 0

    def _has_route(self, fingerprint: str, blocks: int, tokens: int) -> bool:
        try:
            self._find(fingerprint, blocks, tokens)
        except NoRoute:
            return False
        return True

    async def mend(
        self, chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool, *, tokens: int, doing: Doing
    ) -> None:
        """Have others do what the hops that are `gone` did (`Chain.mend`), as soon as there are such others.

        Raises:
            HopLost: one more hop failed, or stayed full for `repair_s` (`HopBusy`).
            NoPeers: nobody covers the blocks, and (unless `wait` is false) nobody came to within `repair_s`.
        """
        self._learn(chain)
        before, fingerprint = chain.route, chain.route.fingerprint
        lost = [hop for hop in before.hops if hop.peer_id in gone]
        deadline = time.time() + (self._repair_s if wait else 0.0)
        refused_at: dict[PeerId, float] = {}
        while True:
            route = await self._wait_for(
                lambda: recover(before, lost, self._view(), asker=self._asker(refused_at), tokens=tokens),
                deadline,
                doing,
            )
            try:
                await chain.mend(route, self._addresses(), gone, history)
            except HopBusy as busy:
                if time.time() >= deadline:
                    raise
                refused_at.setdefault(PeerId(busy.peer_id), time.time())
                await asyncio.sleep(BUSY_PAUSE_S)
            else:
                self._tell(doing, route)
                log.info("session goes on route=%s fingerprint=%s", route, fingerprint)
                return

    @asynccontextmanager
    async def open(
        self, fingerprint: str, blocks: int, tokens: int, doing: Doing | None = None, prompt: Prompt | None = None
    ) -> AsyncIterator[Chain]:
        """The cheapest chain now; waits while its peers are full, and avoids a hop that failed in the next call.

        One whose hops have most of the prompt read goes first.

        Raises:
            HopLost: a hop did not open, or stayed full for `repair_s` (`HopBusy`).
            NoPeers: no cover, and none came within `repair_s`.
        """
        async with AsyncExitStack() as stack:
            doing = doing or Doing()
            beginning = prompt.beginning if prompt is not None else Beginning()
            chain = await self._open_when_free(stack, fingerprint, blocks, tokens, doing, beginning)
            if prompt is not None:
                prompt.route = chain.route
            self._tell(doing, chain.route)
            try:
                yield chain
            finally:
                self._learn(chain)

    def prompt(self, read: ReadPrompts, fingerprint: str) -> Prompt:
        """What is known of the prompt of an answer by these terms (`ReadPrompts.prompt`)."""
        return read.prompt(self._key(fingerprint), self._wire_dtype, restricted=self._terms.restrict)

    async def resume(
        self,
        kept: KeptSessions,
        fingerprint: str,
        tokens: int,
        doing: Doing,
        hidden: Hidden,
        prompt: Prompt | None = None,
    ) -> KeptSession | None:
        """A kept session that goes on with these rows (`KeptSessions.take`), if its peers would be asked today."""
        if prompt is not None:
            await prompt.look(hidden)
        found = await kept.take(
            self._key(fingerprint), hidden, tokens, lambda chain: self._would_ask(chain.route, tokens)
        )
        if found is not None:
            self._tell(doing, found.chain.route)
            if prompt is not None:
                prompt.route = found.chain.route
        return found

    def keep(
        self, kept: KeptSessions, fingerprint: str, chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack
    ) -> None:
        """An `Ending`: keeps the session for answers that go by the same terms."""
        if kept.keep(self._key(fingerprint), chain, inputs, stack):
            self._learn(chain)
            chain.learnt()

    def lost(self, lost: HopLost) -> None:
        """Leave that peer alone for a while, unless it only went as it had said."""
        if isinstance(lost, HopLeaves):
            return
        peer = PeerId(lost.peer_id)
        self._measured.note_failure(peer, self._record(peer))

    def _learn(self, chain: Chain) -> None:
        """Round trips of the heartbeats, block times of the decode steps; of those hops that were not lost."""
        for peer, rtt_ms in chain.rtt_ms.items():
            if peer not in chain.blamed:
                self._measured.note_rtt(peer, rtt_ms)
        times = chain.rounds.medians()
        for hop, compute_ms in zip(chain.route.hops, times.compute_ms if times else (), strict=False):
            if hop.peer_id in chain.blamed:
                continue
            self._measured.note_step(hop.peer_id, compute_ms / len(hop.span))

    def _key(self, fingerprint: str) -> tuple[str, RouteTerms]:
        return fingerprint, replace(self._terms, deadline_s=None)

    def _would_ask(self, route: Route, tokens: int) -> bool:
        """Are its hops still there, trusted, and large enough?"""
        now, health = time.time(), self._measured.asker.health
        fitting = {
            record.peer_id: record.span
            for record in self._view().records
            if record.state is PeerState.ONLINE
            and record.fingerprint == route.fingerprint
            and record.cache_tokens_left >= tokens
            and health.verdict(record, now) is Verdict.USABLE
        }
        return all((span := fitting.get(hop.peer_id)) is not None and span.covers(hop.span) for hop in route.hops)

    def _record(self, peer: PeerId) -> PeerRecord | None:
        return next((record for record in self._presence.view().records if record.peer_id == peer), None)

    async def _open_when_free(
        self, stack: AsyncExitStack, fingerprint: str, blocks: int, tokens: int, doing: Doing, beginning: Beginning
    ) -> Chain:
        deadline = time.time() + self._repair_s
        refused_at: dict[PeerId, float] = {}
        route = beginning.along if beginning.along and self._would_ask(beginning.along, tokens) else None
        while True:
            if route is None or refused_at:
                route = await self._wait_for(
                    lambda: self._find(fingerprint, blocks, tokens, refused_at), deadline, doing
                )
            try:
                return await stack.enter_async_context(self._opened(route, tokens, beginning))
            except HopBusy as busy:
                if time.time() >= deadline:
                    raise
                refused_at.setdefault(PeerId(busy.peer_id), time.time())
                await asyncio.sleep(BUSY_PAUSE_S)
            except HopLost as lost:
                self.lost(lost)
                raise

    def _opened(self, route: Route, tokens: int, beginning: Beginning) -> AbstractAsyncContextManager[Chain]:
        log.info("session opens route=%s predicted_ms=%.1f", route, route.predicted_ms)
        return open_chain(
            route,
            self._addresses(),
            self._transport,
            tokens=tokens,
            wire_dtype=self._wire_dtype,
            timings=self._timings,
            spare=lambda peer: self._could_do_without(peer, route.fingerprint, route.blocks, tokens),
            books=self._books,
            beginning=beginning,
        )

    def _could_do_without(self, peer: PeerId, fingerprint: str, blocks: int, tokens: int) -> bool:
        """Would the model be covered if this peer were not there?"""
        view = self._view()
        others = SwarmView(view.at, tuple(record for record in view.records if record.peer_id != peer))
        try:
            find_route(others, fingerprint, blocks, asker=self._measured.asker, tokens=tokens)
        except NoRoute:
            return False
        return True

    def _view(self) -> SwarmView:
        """The peers that these answers may go through."""
        return admitted(self._presence.view(), self._terms, self._trusted)

    def _explained(self, none: NoRoute) -> str:
        """Why there is no route, and what the terms have to do with it."""
        if not self._terms.restrict:
            return str(none)
        unknown = strangers(self._presence.view(), self._terms.pinned)
        missing = f"; no peer in sight is called {', '.join(unknown)}" if unknown else ""
        return f"{none} (this request allows {self._terms}{missing})"

    def _addresses(self) -> dict[PeerId, tuple[str, ...]]:
        return {record.peer_id: record.addresses for record in self._presence.view().records}

    def _asker(self, refused_at: Mapping[PeerId, float]) -> Asker:
        now = time.time()
        refused_ms = {peer: max(0.0, now - at) * 1e3 for peer, at in refused_at.items()}
        return replace(self._measured.asker, refused_ms=refused_ms)

    def _find(
        self, fingerprint: str, blocks: int, tokens: int, refused_at: Mapping[PeerId, float] | None = None
    ) -> Route:
        """The cheapest route now; `refused_at` is since when full peers have kept this session waiting."""
        asker = self._asker(refused_at or {})
        return find_route(self._view(), fingerprint, blocks, asker=asker, tokens=tokens)

    def _tell(self, doing: Doing, route: Route) -> None:
        others = [hop.peer_id for hop in route.hops if hop.peer_id != self._measured.asker.peer_id]
        doing.peers = tuple(self.name_of(peer) or peer for peer in others)
        doing.seen_by = tuple(dict.fromkeys((*doing.seen_by, *others)))
        doing.route = tuple(f"{hop.span}@{hop.peer_id}" for hop in route.hops)
        doing.predicted_ms = route.predicted_ms

    async def _wait_for(self, find: Callable[[], T], deadline: float, doing: Doing) -> T:
        """What `find` returns as soon as it raises no `NoRoute`; `NoPeers` from the deadline on."""
        seen = 0
        while True:
            try:
                found = find()
            except NoRoute as none:
                if time.time() >= deadline:
                    raise NoPeers(self._explained(none)) from none
                doing.waiting = f"waiting up to {self._repair_s:.0f} s for peers: {none}"
            else:
                doing.waiting = ""
                return found
            seen = await self._presence.wait(seen, min(deadline, time.time() + 1.0))
