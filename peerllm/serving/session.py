"""One session at one hop: steps in from the asker or the hop before, steps out to the hop behind.

When another hop of the route is lost, the asker has it replaced and tells the neighbours to `Resume`: each goes
back to where the lost step began, and the one before the gap sends its replacement what the lost hop had been sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from peerllm.engine.scheduler import StepScheduler, StepTiming
from peerllm.engine.span_engine import Hidden, Rows
from peerllm.errors import BadFrame, BadRows, EngineError, EngineFault, PeerGone, Refused, WireError
from peerllm.serving.load import Progress, RecentWaits
from peerllm.serving.prefixes import Holding, acknowledged
from peerllm.serving.session_receipts import SessionReceipts
from peerllm.wire.chunks import chunks_of
from peerllm.wire.live_stream import LiveStream, while_open
from peerllm.wire.messages import (
    At,
    Close,
    Contested,
    Countersigned,
    Digest,
    Digested,
    Extend,
    Failed,
    FailureCode,
    Message,
    Open,
    Opened,
    Prefixes,
    Recall,
    RefusalCode,
    Rest,
    Resume,
    Resumed,
    Rewind,
    Step,
    Want,
    Where,
    wanted_rows,
)
from peerllm.wire.tensor import from_wire, is_sound, to_wire
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

Link = Callable[[PeerId, tuple[str, ...]], Coroutine[Any, Any, LiveStream]]
"""A push stream to that peer at one of these addresses, attached to the session; raises `Refused`."""


class ServedSession:
    """The KV slot of one asker's session, and the streams on both sides of it."""

    def __init__(
        self,
        opened: Open,
        asker: LiveStream,
        scheduler: StepScheduler,
        holding: Holding,
        waits: RecentWaits,
        *,
        link: Link,
        told: Callable[[], Awaitable[None]],
        rests: Callable[[], None],
        wakes: Callable[[], None],
        begin_alike: Callable[[Prefixes], Awaitable[int]],
        receipts: SessionReceipts,
    ) -> None:
        """`holding` is the session's slot, empty as yet; `waits` is told how long each step has waited for the engine.

        `told` is called when the asker has named another hop before this one, `rests` when the slot may be given to
        others, `wakes` when the asker wants it back: it raises `Refused` if others go first. `begin_alike` takes
        over what others have left, `receipts` count what the asker gets.
        """
        self.opened = opened
        self.progress = Progress(opened.tokens)
        self._asker = asker
        self._scheduler = scheduler
        self._slot = holding.slot
        self._holding = holding
        self._waits = waits
        self._link = link
        self._told = told
        self._rests = rests
        self._wakes = wakes
        self._receipts = receipts
        self._begin_alike = begin_alike
        self._history = holding.history
        self._inputs = holding.inputs
        self._previous = opened.previous
        self._behind: LiveStream | None = None
        self._linked = asyncio.Event()  # to the hop behind, or to nobody at the end of the route
        self._before: LiveStream | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._resting = False
        self._silent_below = opened.silent_below
        self._void = 0.0  # steps up to this number belong to a route that is no more
        self._received = self._done = 0  # numbers of steps
        self._position = 0

    async def run(self) -> None:
        """Serve until the asker closes or is gone (`PeerGone`); raises `Refused` if the next hop cannot be reached."""
        if self.opened.next is not None:
            linking = self._link(self.opened.next, self.opened.next_addresses)
            self._follow(await while_open(self._asker, linking))
        self._linked.set()
        await self._asker.send(Opened(self.opened.tokens))
        while await self._obey(await self._asker.receive()):
            pass

    def stop(self) -> None:
        """Touch the slot no more: it belongs to somebody else from now on."""
        self._stopped, self._void = True, math.inf

    def leave_behind(self) -> Holding | None:
        """Stop; what other sessions may begin with, unless nobody may or the slot is somebody else's already."""
        useful = not self._stopped and self._holding.is_worth_keeping
        self.stop()
        return self._holding if useful else None

    def dismiss(self) -> None:
        """The asker is not to come back: somebody else needs the slot."""
        self.stop()
        self._let_go(self._asker)

    async def close(self) -> None:
        """End the streams to both neighbours."""
        self._receipts.close()
        behind, before, self._behind, self._before = self._behind, self._before, None, None
        self._let_go(behind)
        self._let_go(before)
        if self._background:
            await asyncio.wait(self._background)

    def expects(self, peer: PeerId) -> bool:
        """Is this the hop whose output this session takes?"""
        return peer == self._previous

    async def feed_from(self, before: LiveStream) -> None:
        """Take the steps that the hop before this one pushes, until either side ends."""
        self._let_go(self._before)
        self._before = before
        await self._linked.wait()  # what a replacement is to be told may come before it can pass anything on
        try:
            while True:
                message = await before.receive()
                if isinstance(message, Prefixes):
                    await self._take_over(message)
                elif isinstance(message, Step):
                    await self._advance(message)
                else:
                    raise BadFrame(f"a push stream carries steps, not {type(message).__name__}")
        except WireError as error:
            if before is self._before:
                await self._tell(FailureCode.PREVIOUS_GONE, str(error))
            raise

    async def _obey(self, message: Message) -> bool:
        """False when the asker ends the session."""
        match message:
            case Step() if self._previous is None:
                await self._advance(message)
            case Prefixes() if self._previous is None:
                await self._take_over(message)
            case Rewind(to=to):
                await self._go_back(to)
            case Resume():
                await self._resume(message)
            case Rest():
                self._resting = True
                self._history.rest()
                self._rests()
                await self._receipts.show()
            case Countersigned() | Contested():
                self._receipts.answered(message)
            case Extend():
                await self._extend(message)
            case Where():
                await self._asker.send(At(self._received, self._done, self._position))
            case Recall():
                await self._recall(message)
            case Digest(start=start, end=end):
                digest = self._inputs.digest(start, end)
                await self._asker.send(_FORGOTTEN if digest is None else Digested(digest))
            case Close():
                return False
            case _:
                raise BadFrame(f"an asker does not send {type(message).__name__} in a running session")
        return True

    async def _take_over(self, offer: Prefixes) -> None:
        """Begin with what an earlier session has left here of these rows, and offer the next hop what that was sent."""
        if offer.step <= self._void:
            return
        self._received = offer.step
        if not self._position and not self._resting:
            self._position = await self._begin_alike(offer)
        if offer.step <= self._void:
            return
        try:
            if self._behind is None:
                await self._asker.send(acknowledged(offer, self._position))
            else:
                await self._behind.send(self._holding.offer_on(offer, self._position))
        except PeerGone as gone:
            await self._fail(offer, FailureCode.NEXT_GONE, str(gone))
        self._done = offer.step

    async def _advance(self, step: Step) -> None:
        """Run the rows through this peer's blocks and pass them on; a failure is told to the asker."""
        if step.step <= self._void:
            return
        self._received = step.step
        if self._resting:
            await self._fail(step, FailureCode.BAD_STEP, "the session rests")
            return
        try:
            hidden, timing = await self._compute(step)
        except EngineError as error:
            await self._fail(step, self._code_of(error), str(error))
            return
        self._receipts.computed(step, timing)
        if step.step <= self._void:  # the asker has gone back meanwhile
            return
        if step.position < self._position:
            self._forget_from(step.position)
        now = time.monotonic()
        self._waits.note(timing.queue_us / 1e3, now)
        self._position = step.position + len(step.hidden)
        self.progress.note(self._position, decoded=len(hidden) == 1 or step.want is Want.EACH, now=now)
        await self._pass_on(step, hidden, (*step.timings, (timing.queue_us, timing.compute_us)))
        if step.step <= self._void:
            return
        self._inputs.note(step.position, from_wire(step.hidden))
        self._done = step.step
        await self._receipts.show_if_due()

    async def _compute(self, step: Step) -> tuple[Hidden, StepTiming]:
        """Behind what this step leaves of the earlier ones: it may begin where those guessed wrongly."""
        hidden = from_wire(step.hidden)
        if step.position > self._position or not is_sound(hidden):
            raise BadRows(f"rows from {step.position} on after {self._position} positions, or values that are none")
        self._inputs.back_to(step.position)  # nobody begins with what is about to change
        return await self._scheduler.step(
            Rows(self._slot, step.position, hidden, self.opened.enter, self.opened.exit),
            goes_back=step.position < self._position,
            as_alone=step.want is Want.EACH,
        )

    async def _pass_on(self, step: Step, hidden: Hidden, timings: tuple[tuple[int, int], ...]) -> None:
        dtype, silent = self.opened.wire_dtype, self._position <= self._silent_below
        if self._behind is None:
            if not silent:
                rows = wanted_rows(len(hidden), step.want)
                wanted = to_wire(hidden[rows.start : rows.stop], dtype)
                output = Step(step.step, step.position + rows.start, step.want, wanted, timings)
                self._receipts.passes_on(output)
                await self._asker.send(output)
            return
        rows = to_wire(hidden, dtype)
        self._history.note(step.position, rows)
        if not silent:
            output = Step(step.step, step.position, step.want, rows, timings)
            self._receipts.passes_on(output)
            try:
                await self._behind.send(output)
            except PeerGone as gone:
                await self._fail(step, FailureCode.NEXT_GONE, str(gone))
        self._holding.note_sent(step.position, rows)

    async def _resume(self, resume: Resume) -> None:
        """Go back, take the neighbours that the asker names, and send a new next one what it must know."""
        self._void = max(self._void, resume.after)
        await self._go_back(resume.to)
        if resume.previous != self._previous:
            self._previous = resume.previous
            self._let_go(self._before)
            self._before = None
            await self._told()
        failed = None
        if resume.next is not None and resume.replay_from is not None:
            failed = await self._replay(resume.next, resume, resume.replay_from)
        await self._asker.send(failed or Resumed(resume.after))

    async def _replay(self, behind: PeerId, resume: Resume, start: int) -> Failed | None:
        """Attach to the new next hop and send it what it lacks; why that cannot be, if it cannot."""
        step = resume.after + 1  # the one that the asker will send next: this failure is not void
        rows = self._history.rows(start, resume.to)
        if rows is None:
            return Failed(step, FailureCode.NO_HISTORY, "what was sent is not kept any more")
        self._let_go(self._behind)
        self._behind = None
        try:
            stream = await self._link(behind, resume.next_addresses)
            self._follow(stream)
            for first, chunk in chunks_of(rows):
                await stream.send(Step(resume.after, start + first, Want.NONE, chunk))
        except (Refused, PeerGone) as error:
            return Failed(step, FailureCode.NEXT_GONE, str(error))
        return None

    async def _extend(self, extend: Extend) -> None:
        """Go on from an earlier position, with room for more tokens than before."""
        self._void = max(self._void, extend.after)
        try:
            self._take_up(extend.tokens)
        except Refused as refusal:
            await self._asker.send(Failed(extend.after + 1, FailureCode.NO_ROOM, refusal.reason))
            return
        await self._go_back(extend.to)
        await self._asker.send(Resumed(extend.after))

    def _take_up(self, tokens: int) -> None:
        """Have the slot again, for so many tokens."""
        room = self._scheduler.engine.info.context_tokens
        if tokens > room:
            raise Refused(RefusalCode.NO_ROOM, f"{tokens} tokens asked for, {room} fit a session here")
        self._wakes()
        self._resting = False
        self._history.wake(tokens)
        self._scheduler.allow(self._slot, tokens)
        self.progress = Progress(tokens)

    async def _recall(self, recall: Recall) -> None:
        """Show the asker what was sent to the next hop."""
        rows = self._history.rows(recall.start, recall.end)
        if rows is None:
            await self._asker.send(_FORGOTTEN)
            return
        for first, chunk in chunks_of(rows):
            await self._asker.send(Step(0, recall.start + first, Want.ALL, chunk))

    async def _go_back(self, to: int) -> None:
        if self._stopped:
            raise PeerGone("the session has ended")
        self._inputs.back_to(to)
        await self._scheduler.rewind(self._slot, to)
        self._forget_from(to)

    def _forget_from(self, position: int) -> None:
        """What came from there on, as the engine has already."""
        self._holding.back_to(position)
        self._position = position
        self._silent_below = min(self._silent_below, position)  # what comes behind is new to everybody

    def _follow(self, behind: LiveStream) -> None:
        """Push to this stream from now on; if it ends while nothing is sent the asker is told all the same."""
        self._behind = behind

        def ended() -> None:
            if behind is self._behind and not self._stopped:
                self._in_background(self._tell(FailureCode.NEXT_GONE, "the stream to the next hop ended"))

        behind.on_end(ended)

    async def _tell(self, code: FailureCode, message: str) -> None:
        """The asker hears what has happened beside any step, unless it has gone or knows already."""
        if self._stopped or self._received <= self._void:
            return
        with contextlib.suppress(WireError):
            await self._asker.send(Failed(self._received, code, message))

    async def _fail(self, step: Step | Prefixes, code: FailureCode, message: str) -> None:
        if step.step <= self._void:
            return
        log.info("step failed id=%s code=%s", self.opened.session.hex()[:8], code)
        await self._asker.send(Failed(step.step, code, message))

    def _code_of(self, error: EngineError) -> FailureCode:
        if isinstance(error, BadRows) and self._previous is not None:
            return FailureCode.BAD_INPUT
        return FailureCode.INTERNAL if isinstance(error, EngineFault) else FailureCode.BAD_STEP

    def _let_go(self, stream: LiveStream | None) -> None:
        """Close in the background: a neighbour that is gone takes its time."""
        if stream is not None:
            self._in_background(stream.close())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


_FORGOTTEN = Failed(0, FailureCode.NO_HISTORY, "it is not kept any more")
