"""Carries out the life of a contribution: choose a span with the others, load it, serve it, drain it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from peerllm.engine.courtesy import on_thread
from peerllm.engine.scheduler import DecodeWork
from peerllm.engine.span_engine import EngineInfo
from peerllm.errors import PeerllmError, WrongResults
from peerllm.giving.books import Books
from peerllm.model.progress import Progress, ProgressEvent
from peerllm.model.store import StoredModel
from peerllm.presence import Presence
from peerllm.serving.chooser import Chooser
from peerllm.serving.contribution import (
    Action,
    Chosen,
    Contribution,
    Drained,
    Event,
    Failed,
    GoOn,
    Held,
    Invited,
    LentAnew,
    Loaded,
    Moved,
    Moving,
    Parted,
    Phase,
    Released,
    SwitchedOff,
    SwitchedOn,
    Warmed,
    advance,
)
from peerllm.serving.group_member import Place
from peerllm.serving.groups import Groups
from peerllm.serving.load_meter import LoadMeter, tell_progress
from peerllm.serving.loaded_span import LoadedSpan, LoadEngine, load_engine
from peerllm.serving.offer import Offer, Prepared
from peerllm.serving.reception import Reception
from peerllm.serving.residence import HAND_OVER_S, Means, Residence
from peerllm.serving.spans_in_memory import SpansInMemory
from peerllm.wire.transport import Transport
from peerllm_swarm.balancing import Elsewhere, Pace
from peerllm_swarm.errors import SwarmError
from peerllm_swarm.explanation import PlacementExplanation
from peerllm_swarm.records import PeerState, SwarmView
from peerllm_swarm.settle import Timing
from peerllm_swarm.span import BlockSpan, PeerId

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 10.0
"""Before choosing or loading is tried again: long enough not to hammer a hub, short enough to be noticed."""

FINISH_S = 3600.0
"""For running sessions to end by themselves, once the owner wants to stop after them."""

Prepare = Callable[[SwarmView], Awaitable[Prepared]]
"""Opens the model that this machine is to serve in such a swarm, and works out what it can hold of it."""

CallsFrom = Callable[[SwarmView, str, bool], Elsewhere | None]
"""Like `Calls`, for a machine that serves the model with this fingerprint."""


class Contributor:
    """One contribution of this machine; `run` is its life, `switch` its owner's hand on it."""

    def __init__(
        self,
        prepare: Prepare,
        presence: Presence,
        transport: Transport,
        changed: Callable[[Contribution], None],
        progress: Progress,
        *,
        timing: Callable[[], Timing],
        elsewhere: CallsFrom,
        drain_s: float,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        load_engine: LoadEngine = load_engine,
        books: Books | None = None,
        groups: Groups | None = None,
    ) -> None:
        """`changed` is told every new state, `progress` (from another thread) every part of a download.

        `timing` says how soon peers see one another's records now, `pace` how often this one thinks of moving.
        """
        self.contribution = Contribution()
        self.offer: Offer | None = None
        self._prepare = prepare
        self._presence = presence
        self._transport = transport
        self._changed = changed
        self._progress = progress
        self._timing = timing
        self._elsewhere = elsewhere
        self._drain_s = drain_s
        self._pace = pace
        self._load_engine = load_engine
        self._books = books
        self._groups = groups
        self._place: Place | None = None  # in somebody else's group, taken last
        self._events: asyncio.Queue[tuple[Event, asyncio.Task[None] | None]] = asyncio.Queue()
        self._doing: asyncio.Task[None] | None = None
        self._stored: StoredModel | None = None
        self._on_disk: frozenset[int] = frozenset()
        self._chooser: Chooser | None = None
        self._moving = False  # what `_chooser` has begun goes on once the present span is drained
        self._spans = SpansInMemory()

    @property
    def info(self) -> EngineInfo | None:
        return self._spans.served.info if self._spans.served else None

    @property
    def sessions(self) -> int:
        return self._spans.served.handler.sessions if self._spans.served else 0

    @property
    def askers(self) -> frozenset[PeerId]:
        """Whose sessions run here now."""
        return self._spans.served.handler.askers if self._spans.served else frozenset()

    @property
    def work(self) -> DecodeWork:
        """Done for others, by the span that is served."""
        return self._spans.served.work if self._spans.served else DecodeWork()

    @property
    def downloaded_bytes(self) -> int:
        return self._stored.downloaded_bytes if self._stored else 0

    def explain(self) -> PlacementExplanation | None:
        """Why this machine serves what it serves; None while it serves nothing and chooses nothing, or in a group."""
        grouped = self.contribution.phase is Phase.GROUPED or self.members
        if self._chooser is None or not self.contribution.wanted or grouped:
            return None
        return self._chooser.explain(self._presence.view())

    def explain_group(self) -> str:
        """Why this machine leads a group, serves in one, or does neither; "" while it lends nothing."""
        if self._groups is None or not self.contribution.wanted:
            return ""
        grouped = self.contribution.phase is Phase.GROUPED
        return self.contribution.reason if grouped else self._groups.words(self._spans.served)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """The others of the group that this machine leads."""
        served = self._spans.served
        return served.group.members if served is not None and served.group is not None else ()

    def switch(self, on: bool, reason: str = "sharing is off", *, finish: bool = False) -> None:
        """Lend from now on, or stop: hand running sessions over, or (`finish`) let them end by themselves."""
        self._tell(SwitchedOn() if on else SwitchedOff(reason, finish))

    def hold(self, reason: str) -> None:
        """Serve nobody until `go_on`; the weights stay in memory, but for a group's, whose members wait for nobody."""
        self._tell(Released(reason) if self.members else Held(reason))

    def release(self, reason: str) -> None:
        """Serve nobody until `go_on`, and give the memory back."""
        self._tell(Released(reason))

    def go_on(self) -> None:
        """Nothing holds this machine back any more."""
        self._tell(GoOn())

    def lend_anew(self) -> None:
        """What may be lent has changed: work out the offer once more and choose a span for it."""
        self._tell(LentAnew())

    async def run(self) -> None:
        """Obey events until cancelled, then drop everything at once (`leave` first for a graceful end)."""
        await Reception(self._spans, lambda: self.contribution.phase).open(self._transport)
        if self._groups is not None:
            await self._groups.start(self._unwilling, self._join)
        try:
            while True:
                event, outcome_of = await self._events.get()
                if outcome_of in (None, self._doing):  # else of what has been given up meanwhile
                    self._obey(event)
        finally:
            await self._end_doing()
            await self._spans.cut_off()
            await self._spans.unload()

    async def leave(self) -> None:
        """Drain and unload, for a daemon that ends; returns when nothing is served any more."""
        await self._end_doing()
        if self._spans.served is not None:
            await self._send_away(self._spans.served, self._drain_s)
        await self._spans.left()
        await self._spans.unload()

    def measured(self) -> dict[str, Any]:
        """The fields of the record that change by themselves."""
        served, paused = self._spans.served, self.contribution.phase is Phase.PAUSED
        return served.measured() if served is not None and not paused else {}

    def _tell(self, event: Event, outcome_of: asyncio.Task[None] | None = None) -> None:
        self._events.put_nowait((event, outcome_of))

    def _obey(self, event: Event) -> None:
        before = self.contribution
        self.contribution, action = advance(before, event)
        if action is None and self.contribution == before and not isinstance(event, Moved):
            return
        log.info("contribution phase=%s reason=%r", self.contribution.phase, self.contribution.reason)
        self._changed(self.contribution)
        if action is not None:
            before, self._doing = self._doing, None
            self._doing = asyncio.create_task(self._carry_out(self._work(action), before))

    def _work(self, action: Action) -> Coroutine[Any, Any, Event | None]:
        match action:
            case Action.CHOOSE:
                return self._choose(0.0)
            case Action.CHOOSE_LATER:
                return self._choose(RETRY_S)
            case Action.LOAD:
                return self._load(_known(self.contribution.span))
            case Action.WARM:
                return self._warm()
            case Action.SERVE:
                return self._serve()
            case Action.DRAIN:
                return self._drain(self._drain_s)
            case Action.FOLLOW:
                return self._follow()
            case Action.FINISH:
                return self._drain(FINISH_S, tell=False)
            case Action.HOLD:
                return self._hold()
            case Action.RELEASE | Action.STOP:
                return self._release()

    async def _carry_out(self, work: Coroutine[Any, Any, Event | None], before: asyncio.Task[None] | None) -> None:
        """Run one action after what was under way has ended; its outcome is the next event."""
        try:
            await _ended(before)
            event = await work
        except WrongResults as error:  # from files that are right: trying again would only heat this machine
            log.error("contribution ends: %s", error)
            event = SwitchedOff(str(error))
        except (PeerllmError, SwarmError, OSError) as error:
            log.warning("contribution failed: %s", error)
            event = Failed(str(error))
        except Exception as error:  # an engine may fail in ways that only its library knows; the daemon goes on
            log.exception("contribution failed")
            event = Failed(f"{type(error).__name__}: {error}")
        finally:
            work.close()
        if event is not None:
            self._tell(event, asyncio.current_task())

    async def _choose(self, delay_s: float) -> Event:
        """Agree with the other peers on a span, or go on with a move."""
        await self._spans.unload()
        await asyncio.sleep(delay_s)
        moving, self._moving = self._moving, False
        if not moving or self._chooser is None:
            prepared = await self._prepare(self._presence.view())
            self._stored, self.offer = prepared.stored, prepared.offer
            self._on_disk = await on_thread(self._stored.blocks_on_disk, polite=self.offer.polite)
            room = self._groups.lend(self._stored, self.offer) if self._groups is not None else 0.0
            self._chooser = Chooser(
                self._presence, self.offer, prepared.lends, self._on_disk, self._timing(), self._pace, Random(), room
            )
        return Chosen(await self._chooser.settle())

    async def _load(self, span: BlockSpan) -> Event:
        await _known(self._chooser).publish(PeerState.LOADING, span)
        spec = _known(self.offer).spec
        meter = LoadMeter(sum(spec.block_bytes[block] for block in span if block not in self._on_disk))

        def progress(event: ProgressEvent) -> None:
            meter.note(event, time.monotonic())
            self._progress(event)

        telling = asyncio.create_task(tell_progress(self._presence, meter))
        try:
            self._spans.served = await self._load_span(span, progress)
        finally:
            await _ended(telling)
        return Loaded()

    async def _load_span(self, span: BlockSpan, progress: Progress) -> LoadedSpan:
        stored, offer = _known(self._stored), _known(self.offer)
        return await LoadedSpan.load(stored, offer, span, self._transport, progress, self._load_engine, self._books)

    async def _warm(self) -> Event:
        await _known(self._spans.served).warm()
        return Warmed()

    async def _serve(self) -> Event:
        """Serve the span until this peer has to stop serving it to serve another."""
        chooser, stored, offer = _known(self._chooser), _known(self._stored), _known(self.offer)
        if self._spans.served is not None:
            self._spans.served.handler.reopen()
        means = Means(
            stored,
            offer,
            self._transport,
            self._progress,
            self._books,
            self._drain_s,
            load_span=lambda span: self._load_span(span, self._progress),
            elsewhere=lambda view, check: self._elsewhere(view, offer.fingerprint, check),
            moved=lambda span: self._tell(Moved(span)),
            send_away=self._send_away,
        )
        departure = await Residence(chooser, self._spans, self._groups, means).serve()
        self._moving = departure.moving
        return Moving(departure.reason)

    async def _follow(self) -> Event:
        """Give up what is served, and serve in somebody else's group until that is over."""
        place = _known(self._place)
        self._moving = False
        if self._spans.served is not None:
            await self._send_away(self._spans.served, HAND_OVER_S)
        await self._spans.cut_off()
        await self._spans.unload()
        groups, stored, offer = _known(self._groups), _known(self._stored), _known(self.offer)
        return Parted(await groups.follow(place, stored, offer))

    async def _drain(self, within_s: float, *, tell: bool = True) -> Event:
        if self._spans.served is not None:
            await self._send_away(self._spans.served, within_s, tell=tell)
        await self._spans.unload()
        await self._publish_idle()
        return Drained()

    async def _hold(self) -> None:
        """Hand all sessions over at once; whoever wants one later is turned away."""
        self._moving = False
        if self._spans.served is not None:
            await asyncio.gather(self._send_away(self._spans.served, HAND_OVER_S), self._spans.cut_off())
        await self._publish_idle()

    async def _release(self) -> None:
        self._moving = False
        if self._spans.served is not None and self.contribution.wanted:
            await self._send_away(self._spans.served, HAND_OVER_S)
        await self._spans.cut_off()
        await self._spans.unload()
        await self._publish_idle()

    async def _send_away(self, span: LoadedSpan, within_s: float, *, tell: bool = True) -> None:
        """End or move all sessions; the askers hear of it at once, however long the record takes to spread."""
        await asyncio.gather(self._presence.publish(state=PeerState.DRAINING), span.handler.drain(within_s, tell=tell))

    def _unwilling(self) -> str | None:
        """Why this machine joins no group now; nobody learns more than its record says."""
        phase = self.contribution.phase
        willing = self.contribution.wanted and phase in (Phase.CHOOSING, Phase.SERVING)
        return None if willing else f"it cannot join now ({phase})"

    def _join(self, place: Place) -> None:
        self._place = place
        names = {record.peer_id: record.name for record in self._presence.others()}
        lead = place.invite.peers[0]
        self._tell(Invited(f"serves in the group of {names.get(lead) or lead[-6:]}"))

    async def _end_doing(self) -> None:
        doing, self._doing = self._doing, None
        await _ended(doing)

    async def _publish_idle(self) -> None:
        wanted = self.contribution.wanted and self.contribution.phase is not Phase.PAUSED
        await self._presence.publish_idle(lends=self._presence.record.lends if wanted else ())


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Cancel and wait."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))


def _known(value: T | None) -> T:
    """What the phase guarantees: a span is chosen before it is loaded, and loaded before it is served."""
    if value is None:
        raise RuntimeError("the contribution's state machine let a phase begin before the one it needs")
    return value
