"""The gate: no stream or call passes between this peer and another before the other's certificate has been checked.

Whichever side meets a peer that it does not know swaps certificates with it first (hello.py), so a member that has
restarted and forgotten everybody is not refused: it asks its callers anew. Certificates also come with records.

Strangers are cheap: what is kept of them is bounded, and a peer that has just been refused is not asked again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol
from weakref import WeakKeyDictionary

from peerllm_swarm.errors import NotAMember, SwarmError, Unreachable
from peerllm_swarm.membership import Membership
from peerllm_swarm.span import PeerId

logger = logging.getLogger(__name__)

Swap = Callable[[PeerId], Awaitable[bytes]]
"""Shows this peer's certificate to another and returns the other's, unchecked; raises Unreachable or NotAMember."""

SWAP_S = 5.0
MAX_SWAPS = 32
MAX_WAITING = 64
"""Streams and calls that wait for a swap: each holds up to 128 KiB that the peer has sent ahead."""

REFUSAL_S = 2.0
MAX_REFUSALS = 1024


class Cuttable(Protocol):
    """What is open to a peer: ``asyncio.StreamWriter`` is such, and so is what stands for a direct socket."""

    @property
    def transport(self) -> Abortable: ...


class Abortable(Protocol):
    def abort(self) -> None: ...


class Gate:
    """Admits the members of one swarm; `swap_by` gives it the means to ask those whom it does not know."""

    def __init__(self, membership: Membership, *, clock: Callable[[], float] = time.time) -> None:
        self.membership = membership
        self._clock = clock
        self._swap: Swap | None = None
        self._swaps: dict[PeerId, asyncio.Task[None]] = {}
        self._waiting = 0
        self._refused: OrderedDict[PeerId, float] = OrderedDict()
        self._streams: WeakKeyDictionary[Cuttable, PeerId] = WeakKeyDictionary()
        self._closed = False
        membership.on_revoked.append(self._cut)

    def swap_by(self, swap: Swap) -> None:
        self._swap = swap

    def admits(self, peer_id: PeerId) -> bool:
        """Whether this peer is known as a member now; asks nobody."""
        return self.membership.admits(peer_id, self._clock())

    def admit(self, peer_id: PeerId, certificate: bytes) -> None:
        """Let in a peer that is proven to be `peer_id`; NotAMember if its certificate says otherwise."""
        self.membership.admit(peer_id, certificate, self._clock())

    async def meet_caller(self, peer_id: PeerId) -> None:
        """Like `meet`, for a peer that has come by itself: it is not asked again when it has just been refused."""
        if not self.admits(peer_id) and self._refused.get(peer_id, 0.0) > time.monotonic():
            raise NotAMember(f"{peer_id} was refused a moment ago", reason="absent")
        await self.meet(peer_id)

    async def meet(self, peer_id: PeerId) -> None:
        """Return once this peer is known as a member, within `SWAP_S`.

        Raises:
            NotAMember: it is none, or there are too many strangers at once to ask it.
            Unreachable: it does not answer.
        """
        if self.admits(peer_id):
            return
        swap = self._swaps.get(peer_id) or self._start_swap(peer_id)
        if self._waiting >= MAX_WAITING:
            raise NotAMember("too many strangers wait to be asked who they are", reason="absent")
        self._waiting += 1
        try:
            await asyncio.wait((swap,))
        finally:
            self._waiting -= 1
        if swap.cancelled():
            raise NotAMember(f"{peer_id} was not asked any more: this peer is closing", reason="absent")
        if (error := swap.exception()) is not None:
            raise error

    def watch(self, peer_id: PeerId, stream: Cuttable) -> None:
        """Cut this stream, whoever uses it by then, when the peer's membership is taken back."""
        self._streams[stream] = peer_id

    def cut_strangers(self) -> None:
        """Cut the streams of peers whose certificates have expired."""
        for peer_id in set(self._streams.values()):
            if not self.admits(peer_id):
                self._cut(peer_id)

    async def close(self) -> None:
        """End the swaps under way; those who wait for them are refused."""
        if not self._closed:
            self.membership.on_revoked.remove(self._cut)
        self._closed = True
        swaps = list(self._swaps.values())
        for swap in swaps:
            swap.cancel()
        await asyncio.gather(*swaps, return_exceptions=True)

    def _start_swap(self, peer_id: PeerId) -> asyncio.Task[None]:
        if self._swap is None or self._closed or len(self._swaps) >= MAX_SWAPS:
            raise NotAMember(f"{peer_id} cannot be asked for its certificate now", reason="absent")
        task = asyncio.create_task(self._ask(peer_id, self._swap), name=f"swap certificates with {peer_id}")
        self._swaps[peer_id] = task
        task.add_done_callback(lambda task: self._end_swap(peer_id, task))
        return task

    def _end_swap(self, peer_id: PeerId, task: asyncio.Task[None]) -> None:
        del self._swaps[peer_id]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, SwarmError):
            logger.info("peer not admitted peer=%s: %s", peer_id, error)

    async def _ask(self, peer_id: PeerId, swap: Swap) -> None:
        try:
            async with asyncio.timeout(SWAP_S):
                certificate = await swap(peer_id)
            self.admit(peer_id, certificate)
        except TimeoutError as error:
            self._note_refusal(peer_id)
            raise Unreachable(f"peer {peer_id} shows no certificate within {SWAP_S:g} s") from error
        except SwarmError:
            self._note_refusal(peer_id)
            raise

    def _note_refusal(self, peer_id: PeerId) -> None:
        self._refused.pop(peer_id, None)
        self._refused[peer_id] = time.monotonic() + REFUSAL_S
        while len(self._refused) > MAX_REFUSALS:
            self._refused.popitem(last=False)

    def _cut(self, peer_id: PeerId) -> None:
        cut = [stream for stream, peer in self._streams.items() if peer == peer_id]
        for stream in cut:
            self._streams.pop(stream, None)
            stream.transport.abort()
        if cut:
            logger.warning("streams cut peer=%s streams=%d: it is no member any more", peer_id, len(cut))
