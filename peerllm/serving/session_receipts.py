"""What a served session counts, and the receipts that its asker signs on the session's own stream."""

from __future__ import annotations

import asyncio
import contextlib

from peerllm.engine.scheduler import StepTiming
from peerllm.errors import BadFrame, PeerGone
from peerllm.giving.serving_side import Giving
from peerllm.wire.codec import step_bytes
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Contested, Countersigned, Message, Step, is_decode

SETTLE_S = 2.0
"""For an asker that has said goodbye to sign for what it got; its slot is free by then."""

CUT_SETTLE_S = 0.25
"""The same for one that is about to be cut off: it was shown a receipt when it was told to leave."""


class SessionReceipts:
    """Of one session, to one asker; nothing at all without a `giving` that counts."""

    def __init__(self, giving: Giving | None, asker: LiveStream) -> None:
        self._giving = giving
        self._asker = asker

    def computed(self, step: Step, timing: StepTiming) -> None:
        """Whatever becomes of its output."""
        if self._giving is not None:
            rows, size = len(step.hidden), step_bytes(step)
            self._giving.computed(rows, decode=is_decode(rows, step.want), busy_us=timing.busy_us, bytes_in=size)

    def passes_on(self, step: Step) -> None:
        """It is about to leave for the next hop or the asker."""
        if self._giving is not None:
            self._giving.passes_on(step_bytes(step))

    async def show(self) -> None:
        """Let the asker sign for what it has got so far, beside everything else."""
        if self._giving is not None and (receipt := self._giving.receipt()) is not None:
            await self._asker.send(receipt)

    async def show_if_due(self) -> None:
        """The same, every now and then."""
        if self._giving is not None and (receipt := self._giving.due()) is not None:
            await self._asker.send(receipt)

    async def settle(self) -> None:
        """Have an asker that has said goodbye sign for all that it got; not for long, and not if it will not."""
        if self._giving is None:
            return
        with contextlib.suppress(PeerGone, TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._show_last(self._giving)
                while not self._giving.settled.is_set():
                    self.answered(await self._asker.receive())

    async def settle_before_cut(self) -> None:
        """The same while the session still runs, and takes in what the asker says (`answered`)."""
        if self._giving is None:
            return
        with contextlib.suppress(PeerGone, TimeoutError):
            async with asyncio.timeout(CUT_SETTLE_S):
                await self._show_last(self._giving)
                await self._giving.settled.wait()

    def answered(self, message: Message) -> None:
        """Raises `BadFrame` if it is no answer to a receipt."""
        if self._giving is None or not isinstance(message, Countersigned | Contested):
            raise BadFrame(f"an asker does not send {type(message).__name__} now")
        self._giving.take(message)

    def close(self) -> None:
        """Keep what was not signed."""
        if self._giving is not None:
            self._giving.close()

    async def _show_last(self, giving: Giving) -> None:
        if (receipt := giving.receipt(last=True)) is not None:
            await self._asker.send(receipt)
