"""Sessions of askers that run through this peer's span: one stream of the asker's is one session.

A session begins with `Open`, is fed with `Step`s either by its asker or by the hop before it (on a
push stream), and ends when the asker closes its stream or falls silent: then its KV slot is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from peerllm.engine.scheduler import StepScheduler
from peerllm.errors import BadFrame, EngineError, NoSlot, PeerGone, Refused, WireError
from peerllm.giving.books import Books
from peerllm.serving.admission import UNKNOWN_RETRY_S, first_to_go
from peerllm.serving.history import HistoryRoom
from peerllm.serving.kept_prefixes import KeptPrefixes
from peerllm.serving.load import RecentWaits
from peerllm.serving.next_hop import linked
from peerllm.serving.places import Full, Places
from peerllm.serving.prefixes import Holding, begin_alike
from peerllm.serving.session import ServedSession
from peerllm.serving.session_receipts import SessionReceipts
from peerllm.wire.live_stream import LiveStream, while_open
from peerllm.wire.messages import Attach, Attached, Leaving, Message, Open, RefusalCode, SessionId
from peerllm.wire.messages import Refused as RefusedMessage
from peerllm.wire.transport import Transport
from peerllm_swarm.span import BlockSpan, PeerId

log = logging.getLogger(__name__)


ATTACHING = 2
"""Times the slots: so many sessions one hop may be waiting to feed. Those just refused here are still on their way."""


@dataclass(frozen=True)
class HandlerTimings:
    """Deadlines in seconds."""

    first_frame_s: float = 5.0
    """A stream that says nothing once it is open gets closed."""
    link_s: float = 5.0
    """For reaching the hop behind, and for waiting until the asker has opened what a hop attaches to."""
    goodbye_s: float = 1.0
    """For an asker to take the message that this peer leaves; it stays in the stream's buffer in any case."""
    own_wait_s: float = 1.0
    """What this machine's own answers wait for a slot before somebody else's session has to move."""
    hand_over_s: float = 5.0
    """For that session to move; then it is cut."""


@dataclass(frozen=True)
class _Served:
    """A session that has a slot."""

    session: ServedSession
    holding: Holding
    receipts: SessionReceipts
    stream: LiveStream  # of its asker
    over: asyncio.Event
    given_back: asyncio.Task[None]


class SpanHandler:
    """Admits, runs and counts the sessions of one loaded span."""

    def __init__(
        self,
        scheduler: StepScheduler,
        fingerprint: str,
        transport: Transport,
        timings: HandlerTimings = HandlerTimings(),
        *,
        history_bytes: int = 64 << 20,
        books: Books | None = None,
    ) -> None:
        """`history_bytes` bounds what is remembered of all sessions together (`History`); `books` count for them."""
        self._scheduler = scheduler
        self._fingerprint = fingerprint
        self._transport = transport
        self._timings = timings
        self._books = books
        self._served: dict[SessionId, _Served] = {}
        self.settling = 0
        """Sessions that have ended, and whose askers have yet to sign for them."""
        self._moving: set[asyncio.Task[None]] = set()  # sessions that leave for an answer of this machine's own
        self._opening: set[SessionId] = set()
        self._places = Places(scheduler.engine.info.slots, own=transport.peer_id)
        self._attaching = Counter[PeerId]()
        self._waits = RecentWaits()
        self._history_room = HistoryRoom(history_bytes)
        self._changed = asyncio.Condition()
        self._kept = KeptPrefixes(scheduler, self._places, self._notify)
        self._draining = False

    @property
    def sessions(self) -> int:
        """Those that run; one that rests is in nobody's way."""
        return len(self._running())

    @property
    def askers(self) -> frozenset[PeerId]:
        """Whose sessions run."""
        return frozenset(served.stream.peer_id for served in self._running())

    @property
    def resting(self) -> int:
        """Sessions whose slots are kept until somebody needs them."""
        return len(self._places.resting)

    @property
    def queue_ms(self) -> float:
        """How long a step has to wait for the engine now."""
        return self._waits.average_ms(time.monotonic())

    @property
    def release_ms(self) -> float | None:
        """When the first of the running sessions is expected to have ended; None if that is not known."""
        return min(self._left_ms(), default=None)

    async def serve_session(self, stream: LiveStream) -> None:
        """Handle one stream of an asker's, from `Open` to its end."""
        opened = await self._first(stream)
        if not isinstance(opened, Open):
            raise BadFrame(f"a session begins with Open, not with {type(opened).__name__}")
        try:
            async with self._admitted(opened, stream) as served:
                try:
                    await served.session.run()
                    await self._settle(served)
                finally:
                    await served.session.close()
        except Refused as refusal:
            log.info("session refused id=%s code=%s", opened.session.hex()[:8], refusal.code)
            await stream.send(RefusedMessage(RefusalCode(refusal.code), refusal.reason, _again_after_s(refusal)))
        except (PeerGone, EngineError) as gone:  # a slot that was given back meanwhile, too
            log.info("session ended id=%s reason=%s", opened.session.hex()[:8], gone)

    async def serve_push(self, stream: LiveStream) -> None:
        """Handle one stream of the hop before this one; it feeds a session that its asker opens here."""
        attach = await self._first(stream)
        if not isinstance(attach, Attach):
            raise BadFrame(f"a push stream begins with Attach, not with {type(attach).__name__}")
        session = await while_open(stream, self._attached_to(attach.session, stream.peer_id))
        await stream.send(Attached())
        await session.feed_from(stream)

    async def drain(self, within_s: float, *, tell: bool = True) -> None:
        """Admit nobody any more, tell the askers, give them `within_s` to end or move, then cut the rest.

        An asker that is not told (`tell`) stays until its answer has ended.
        """
        self._draining = True
        for session in self._places.resting:
            self._send_away(session)
        if tell:
            await asyncio.gather(*(self._say_goodbye(served, within_s) for served in self._running()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: not self._served and not self.settling and not len(self._kept))
        await asyncio.gather(*(self._cut(served) for served in self._served.values()))

    def reopen(self) -> None:
        """Admit sessions again."""
        self._draining = False

    async def _say_goodbye(self, served: _Served, within_s: float) -> None:
        with contextlib.suppress(WireError, TimeoutError):
            async with asyncio.timeout(self._timings.goodbye_s):
                await served.stream.send(Leaving(within_s))
                await served.receipts.show()

    async def _cut(self, served: _Served) -> None:
        await served.receipts.settle_before_cut()
        await served.stream.close()

    async def _settle(self, served: _Served) -> None:
        """The asker has said goodbye: its slot is free at once, and then it signs for what it got."""
        served.over.set()
        self.settling += 1
        try:
            await served.receipts.settle()
        finally:
            self.settling -= 1
            await self._notify()

    async def _first(self, stream: LiveStream) -> Message:
        async with asyncio.timeout(self._timings.first_frame_s):
            return await stream.receive()

    @asynccontextmanager
    async def _admitted(self, opened: Open, stream: LiveStream) -> AsyncIterator[_Served]:
        """A KV slot for the session, given back whatever happens, and as soon as the asker's stream ends."""
        self._refuse(opened)
        slot = await self._take_slot(opened, stream.peer_id)
        receipts = SessionReceipts(self._books.giving(stream.peer_id, opened) if self._books else None, stream)
        holding = Holding.of(opened, stream.peer_id, slot, self._history_room)
        session = ServedSession(
            opened,
            stream,
            self._scheduler,
            holding,
            self._waits,
            link=partial(linked, self._transport, self._timings.link_s, opened.session),
            told=self._notify,
            rests=partial(self._rest, opened.session, stream.peer_id),
            wakes=partial(self._wake, opened.session),
            begin_alike=partial(begin_alike, holding, others=self._holdings, scheduler=self._scheduler),
            receipts=receipts,
        )
        log.info("session opened id=%s span=%d:%d", opened.session.hex()[:8], opened.enter, opened.exit)
        over = asyncio.Event()
        stream.on_end(over.set)
        giving_back = asyncio.create_task(self._give_back(opened.session, stream.peer_id, slot, over))
        self._served[opened.session] = served = _Served(session, holding, receipts, stream, over, giving_back)
        try:
            await self._notify()
            yield served
        finally:
            over.set()
            await asyncio.shield(giving_back)

    async def _take_slot(self, opened: Open, asker: PeerId) -> int:
        now = time.monotonic()
        try:
            in_the_way = self._places.take(asker, self._left_s(), now)
        except Full as full:
            wait_s = max(full.retry_after_s, self._places.waits_s(asker, now))
            if asker == self._transport.peer_id and wait_s > self._timings.own_wait_s:
                self._move_one()
            raise
        self._opening.add(opened.session)
        try:
            if in_the_way is not None:
                await asyncio.shield(self._send_away(in_the_way))
            slot = await self._scheduler.open(asker, opened.tokens, own=asker == self._transport.peer_id)
            if self._draining:  # meanwhile: the askers have been told already
                await asyncio.shield(self._scheduler.close(slot))
                raise _leaving()
        except BaseException as error:
            self._places.give_back(asker)
            if isinstance(error, NoSlot):
                raise Full(str(error), UNKNOWN_RETRY_S) from error
            raise
        finally:
            self._opening.discard(opened.session)
        return slot

    def _rest(self, session: SessionId, asker: PeerId) -> None:
        """Its slot is for whoever needs one, from now on."""
        in_the_way = self._places.rest(session, asker)
        if in_the_way is not None or self._draining:
            self._send_away(in_the_way or session)

    def _wake(self, session: SessionId) -> None:
        if self._draining:
            raise _leaving()
        self._places.wake(session, self._left_s(), time.monotonic())

    def _send_away(self, session: SessionId) -> asyncio.Task[None]:
        """End a session that rests; what is returned is done when its slot is free."""
        log.info("resting session ends id=%s", session.hex()[:8])
        if (given_back := self._kept.let_go(session)) is not None:
            return given_back
        served = self._served[session]
        self._places.leave(session)
        served.session.dismiss()
        served.over.set()
        return served.given_back

    def _move_one(self) -> None:
        """Have a session of somebody else's move, for an answer of this machine's own."""
        others = {
            session: served.stream.peer_id
            for session, served in self._served.items()
            if served.stream.peer_id != self._transport.peer_id and not self._places.rests(session)
        }
        if others and not self._moving:
            session = first_to_go(others)
            log.info("session has to move id=%s: this machine needs its slot", session.hex()[:8])
            moving = asyncio.create_task(self._move(self._served[session]))
            self._moving.add(moving)
            moving.add_done_callback(self._moving.discard)

    async def _move(self, served: _Served) -> None:
        """Over when the session is."""
        await self._say_goodbye(served, self._timings.hand_over_s)
        try:
            async with asyncio.timeout(self._timings.hand_over_s):
                await served.over.wait()
        except TimeoutError:
            await self._cut(served)

    async def _give_back(self, session: SessionId, asker: PeerId, slot: int, over: asyncio.Event) -> None:
        """Not only when the session's other streams have been closed, which takes time where a peer is dead."""
        await over.wait()
        served = self._served.pop(session)
        left = served.session.leave_behind()
        self._places.leave(session)
        try:
            if left is None:
                served.holding.history.forget()
                await self._scheduler.close(slot)
        finally:
            self._places.end(session, asker)
            if left is not None:
                self._keep(left)
            await self._notify()

    def _keep(self, left: Holding) -> None:
        kept, in_the_way = self._kept.keep(left)
        if out := kept if self._draining else in_the_way:
            self._send_away(out)

    async def _attached_to(self, session: SessionId, before: PeerId) -> ServedSession:
        """The session that the hop before wants to feed, as soon as its asker has opened it here."""
        if self._attaching[before] >= ATTACHING * self._scheduler.engine.info.slots:
            raise BadFrame(f"{before} attaches to more sessions at once than there can be")
        self._attaching[before] += 1
        try:
            async with asyncio.timeout(self._timings.link_s), self._changed:
                await self._changed.wait_for(lambda: self._expects(session, before))
            return self._served[session].session
        finally:
            self._attaching -= Counter((before,))

    def _refuse(self, opened: Open) -> None:
        info = self._scheduler.engine.info
        if self._draining:
            raise _leaving()
        if opened.fingerprint != self._fingerprint:
            raise Refused(
                RefusalCode.WRONG_FINGERPRINT, f"this peer serves {self._fingerprint}, not {opened.fingerprint}"
            )
        if not info.span.covers(BlockSpan(opened.enter, opened.exit)):
            raise Refused(RefusalCode.WRONG_SPAN, f"this peer serves {info.span}, not {opened.enter}:{opened.exit}")
        if opened.enter != info.span.start and not info.free_entry:
            raise Refused(RefusalCode.WRONG_SPAN, f"this peer's sessions enter at block {info.span.start} only")
        if opened.tokens > info.context_tokens:
            raise Refused(
                RefusalCode.NO_ROOM, f"{opened.tokens} tokens asked for, {info.context_tokens} fit a session here"
            )
        if opened.session in self._served or opened.session in self._opening:
            raise Refused(RefusalCode.BAD_REQUEST, "this session is already open here")

    def _expects(self, session: SessionId, before: PeerId) -> bool:
        served = self._served.get(session)
        return served is not None and served.session.expects(before)

    def _holdings(self) -> list[Holding]:
        return [*(served.holding for served in self._served.values()), *self._kept.holdings]

    def _running(self) -> list[_Served]:
        return [served for session, served in self._served.items() if not self._places.rests(session)]

    def _left_ms(self) -> list[float]:
        """When each of the running sessions is expected to have ended, where that is known."""
        left_ms = (served.session.progress.left_ms for served in self._running())
        return [left for left in left_ms if left is not None]

    def _left_s(self) -> list[float]:
        return [left / 1e3 for left in self._left_ms()]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _leaving() -> Refused:
    return Refused(RefusalCode.DRAINING, "this peer is about to leave")


def _again_after_s(refusal: Refused) -> float:
    """A full peer will have room again, a link may work the next time; a wrong question stays wrong."""
    if isinstance(refusal, Full):
        return refusal.retry_after_s
    return 1.0 if refusal.code == RefusalCode.UNREACHABLE_NEXT else 0.0
