"""This peer at the span that it serves: announced and watched, and changed beside the old one where there is room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from peerllm.engine.courtesy import on_thread
from peerllm.engine.load import fetch_span
from peerllm.errors import PeerllmError
from peerllm.giving.books import Books
from peerllm.model.progress import Progress
from peerllm.model.store import StoredModel
from peerllm.serving.chooser import Chooser, Relocation
from peerllm.serving.groups import Groups
from peerllm.serving.loaded_span import LoadedSpan
from peerllm.serving.offer import Offer
from peerllm.serving.slice_work import fits_beside, shape_of
from peerllm.serving.spans_in_memory import SpansInMemory
from peerllm.wire.transport import Transport
from peerllm_swarm.balancing import Elsewhere
from peerllm_swarm.errors import SwarmError
from peerllm_swarm.grouping import GroupPlan
from peerllm_swarm.records import PeerState, SwarmView
from peerllm_swarm.span import BlockSpan

log = logging.getLogger(__name__)

HAND_OVER_S = 0.5
"""For askers to move on before a pause cuts them off: the owner is to have the machine within 2 s, and whoever is cut
off replays elsewhere all the same, only later."""


@dataclass(frozen=True)
class Departure:
    """Why this span is not served any more; `moving` if what comes next has been chosen already."""

    reason: str
    moving: bool = False


@dataclass(frozen=True)
class Means:
    """What serving a span needs, and what it changes."""

    stored: StoredModel
    offer: Offer
    transport: Transport
    progress: Progress
    books: Books | None
    drain_s: float
    load_span: Callable[[BlockSpan], Awaitable[LoadedSpan]]
    elsewhere: Callable[[SwarmView, bool], Elsewhere | None]
    moved: Callable[[BlockSpan], None]
    send_away: Callable[[LoadedSpan, float], Awaitable[None]]


class Residence:
    """Of one peer in one model, from announcing a span that is loaded to its end."""

    def __init__(self, chooser: Chooser, spans: SpansInMemory, groups: Groups | None, means: Means) -> None:
        self._chooser = chooser
        self._spans = spans
        self._groups = groups
        self._means = means

    async def serve(self) -> Departure:
        """Announce the span and watch the swarm; returns when this peer has to stop serving it to serve another."""
        while (loaded := self._spans.served) is not None:
            await self._announce(loaded)
            found = await self._found(loaded)
            if isinstance(found, str):
                return Departure(found)
            departure = await self._carried_out(found)
            if departure is not None:
                return departure
        return Departure("the group for which it gave its span up did not come about")

    async def _announce(self, loaded: LoadedSpan) -> None:
        group = {"members": loaded.group.members, "plan": (), "group_room": 0.0} if loaded.group else {}
        if loaded.group:
            group["capacity_blocks"] = len(loaded.info.span)
        await self._chooser.publish(
            PeerState.ONLINE,
            loaded.info.span,
            free_entry=loaded.info.free_entry,
            moving_until=0.0,
            **group,
            **loaded.measured(),
        )

    async def _found(self, loaded: LoadedSpan) -> Relocation | GroupPlan | str:
        """What to do next: serve another span, lead a group, or (text) end the group that is led now."""
        offer, groups = self._means.offer, self._groups
        if loaded.group is not None and groups is not None:
            return await groups.until_parted(loaded.group, offer, loaded.block_ms)
        watching: set[asyncio.Task[Relocation | GroupPlan]] = {asyncio.create_task(self._watch(loaded))}
        if groups is not None:
            wanted = groups.wanted(self._means.stored, offer, loaded.block_ms)
            watching.add(asyncio.create_task(wanted))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    async def _watch(self, loaded: LoadedSpan) -> Relocation:
        return await self._chooser.watch(
            loaded.info.span,
            loaded.outage(),
            loaded.block_ms,
            lambda: loaded.handler.sessions,
            self._means.elsewhere,
        )

    async def _carried_out(self, found: Relocation | GroupPlan) -> Departure | None:
        """None: it goes on, with another span if that could be loaded beside the old one."""
        try:
            if isinstance(found, GroupPlan):
                return await self._lead(found)
            served = self._spans.served
            log.info("moving from=%s to=%s: %s", served and served.info.span, found.span, found.reason)
            if not found.beside or found.span is None:
                return await self._instead(found)
            await self._beside(found.span)
        except (PeerllmError, SwarmError, OSError) as error:
            log.warning("not moved: %s", error)
            self._chooser.stay(time.time())
            if self._spans.served is not None:
                self._means.moved(self._spans.served.info.span)  # what was being loaded is not any more
        return None

    async def _instead(self, relocation: Relocation) -> Departure:
        """Fetch what the other span needs while this one still serves."""
        if relocation.span is not None:
            fetch = partial(
                fetch_span,
                self._means.stored,
                relocation.span,
                engine=self._means.offer.engine,
                progress=self._means.progress,
            )
            await on_thread(fetch, polite=self._means.offer.polite)
        return Departure(relocation.reason, moving=relocation.span is not None)

    async def _beside(self, span: BlockSpan) -> None:
        """Load the other span while this one serves, then let its last sessions end."""
        loaded = await self._means.load_span(span)
        await loaded.warm()
        self._spans.move_to(loaded, self._means.drain_s)
        self._means.moved(span)

    async def _lead(self, plan: GroupPlan) -> None:
        """Form the group beside the span that is served, or, where there is no room and no session, instead of it."""
        if self._groups is None or self._spans.served is None:
            return
        means, served = self._means, self._spans.served
        log.info("group of=%d span=%s block_ms=%.3f", len(plan.members), plan.span, plan.speed.block_ms)
        shape = shape_of(means.stored, means.offer)
        beside = shape is not None and fits_beside(means.offer, served.info.span, shape, plan.span, plan.slices[0])
        if not beside and served.handler.sessions:
            log.info("no group: sessions run, and there is no room beside them")
            return
        invitation = await self._groups.invited(plan, means.stored, means.offer)
        began = time.monotonic()
        try:
            if not beside:
                await means.send_away(served, HAND_OVER_S)
                await self._spans.unload()
            engine = await self._groups.assembled(invitation, means.stored, means.offer)
        except BaseException:
            await self._groups.given_up(invitation.group, "the group does not come about")
            raise
        dissolve = partial(self._groups.given_up, invitation.group, "its lead dissolves the group")
        took_s = time.monotonic() - began
        loaded = LoadedSpan(engine, means.offer, means.transport, took_s, means.books, invitation.group, dissolve)
        try:
            await loaded.warm()
        except BaseException:
            await loaded.unload()
            raise
        self._spans.move_to(loaded, means.drain_s)
        means.moved(plan.span)
