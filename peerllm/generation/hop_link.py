"""The asker's stream to one hop of a session, and what comes in on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from peerllm.errors import HopBusy, HopLost, PeerGone, Refused, WireError
from peerllm.giving.asking_side import Using
from peerllm.giving.books import Books
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Close, Message, Open, Opened, Receipt, RefusalCode
from peerllm.wire.messages import Refused as RefusedMessage
from peerllm.wire.transport import SESSION_PROTOCOL, Transport
from peerllm_swarm.span import PeerId

BUSY = (RefusalCode.NO_SLOT, RefusalCode.LOADING)
"""Refusals that pass by themselves and say nothing against the peer."""

SETTLE_S = 2.0
"""For a hop to send the last receipt."""


@dataclass(frozen=True)
class Said:
    """What one hop has said, or why it will say nothing any more."""

    link: HopLink
    what: Message | WireError


class HopLink:
    """One hop's stream with its session opened; a task of its own listens until the hop is lost or `close`."""

    def __init__(self, stream: LiveStream, heard: asyncio.Queue[Said], using: Using | None = None) -> None:
        """`using` counts what the hop does, and signs for it; None counts nothing."""
        self.peer_id = stream.peer_id
        self.stream = stream
        self.using = using
        self._answering: set[asyncio.Task[None]] = set()
        self._closing = False
        self._listening = asyncio.create_task(self._listen(heard))

    async def send(self, message: Message) -> None:
        """Raises `HopLost` if the stream is broken."""
        try:
            await self.stream.send(message)
        except WireError as error:
            raise HopLost(self.peer_id, str(error)) from error

    async def close(self) -> None:
        """Say goodbye, so that the KV slot is free at once, sign for the rest, and end the stream."""
        self._closing = True
        try:
            with contextlib.suppress(WireError):
                await self.stream.send(Close("done"))
                await self._settle()
        finally:
            self._listening.cancel()
            await asyncio.wait((self._listening, *self._answering))
            await self.stream.close()
            if self.using is not None:
                self.using.close()

    async def _settle(self) -> None:
        """Wait for the last receipt, or until the hop has ended the stream without one."""
        if self.using is None or self.using.settled.is_set():
            return
        settled = asyncio.create_task(self.using.settled.wait())
        try:
            await asyncio.wait((settled, self._listening), timeout=SETTLE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()

    async def _listen(self, heard: asyncio.Queue[Said]) -> None:
        try:
            while True:
                message = await self.stream.receive()
                if isinstance(message, Receipt):
                    self._answer(message)
                elif not self._closing:
                    heard.put_nowait(Said(self, message))
        except WireError as error:
            heard.put_nowait(Said(self, error))

    def _answer(self, receipt: Receipt) -> None:
        """In a task of its own: steps may wait to leave on this stream, and nobody waits for signatures."""
        answer = self.using.take(receipt) if self.using is not None else None
        if answer is not None:
            answering = asyncio.create_task(self._send_quietly(answer))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def _send_quietly(self, message: Message) -> None:
        with contextlib.suppress(WireError):
            await self.stream.send(message)


async def open_links(
    wanted: Iterable[tuple[PeerId, tuple[str, ...], Open]],
    transport: Transport,
    heard: asyncio.Queue[Said],
    within_s: float,
    books: Books | None = None,
) -> dict[PeerId, HopLink]:
    """All of these hops opened at once, by peer; none is left open if one of them cannot be.

    Raises:
        HopLost: a hop cannot be reached, refuses (`HopBusy` if it is just full), or does not answer within the time.
    """
    opening = [
        asyncio.create_task(_open(transport, peer, addresses, message, heard, within_s, books))
        for peer, addresses, message in wanted
    ]
    if not opening:
        return {}
    try:
        done, _ = await asyncio.wait(opening, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return {link.peer_id: link for link in (task.result() for task in opening)}
    except BaseException:
        await finish(_take_back(opening))
        raise


async def close_links(links: Iterable[HopLink]) -> None:
    """To the end, even if cancelled meanwhile: a stream that is left open keeps its hop's slot for ever."""
    await finish(_gathered(links))


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, and be cancelled only then."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    task.result()
    if cancelled is not None:
        raise cancelled


async def _gathered(links: Iterable[HopLink]) -> None:
    await asyncio.gather(*(link.close() for link in links))


async def _take_back(opening: list[asyncio.Task[HopLink]]) -> None:
    for task in opening:
        task.cancel()
    outcomes = await asyncio.gather(*opening, return_exceptions=True)
    await _gathered(outcome for outcome in outcomes if isinstance(outcome, HopLink))


async def _open(
    transport: Transport,
    peer: PeerId,
    addresses: tuple[str, ...],
    message: Open,
    heard: asyncio.Queue[Said],
    within_s: float,
    books: Books | None,
) -> HopLink:
    """One hop's stream, its session opened and linked."""
    stream = None
    try:
        async with asyncio.timeout(within_s):
            stream = await transport.open_stream(peer, addresses, SESSION_PROTOCOL, within_s)
            await stream.send(message)
            _accept(await stream.receive())
        return HopLink(stream, heard, books.using(peer, message) if books is not None else None)
    except BaseException as error:
        if stream is not None:
            await stream.close()
        lost = _as_lost(error, peer, message, within_s)
        if lost is None:
            raise
        raise lost from error


def _as_lost(error: BaseException, peer: PeerId, message: Open, within_s: float) -> HopLost | None:
    """The hop that is to blame, if one is."""
    if isinstance(error, TimeoutError):
        return HopLost(peer, f"did not open a session within {within_s:.0f} s")
    if isinstance(error, Refused) and error.code in BUSY:
        return HopBusy(peer, str(error))
    if isinstance(error, Refused) and error.code == RefusalCode.UNREACHABLE_NEXT and message.next:
        return HopLost(message.next, str(error))
    if isinstance(error, WireError):
        return HopLost(peer, str(error))
    return None


def _accept(answer: Message) -> None:
    if isinstance(answer, RefusedMessage):
        raise Refused(answer.code, answer.message)
    if not isinstance(answer, Opened):
        raise PeerGone(f"answered {type(answer).__name__} to Open")
