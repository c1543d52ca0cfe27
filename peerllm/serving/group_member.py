"""A place in somebody else's group: the invitation, and the slice that is served until the group is over.

Whether this machine joins is its own decision: its owner's consent, the governor, the memory that is lent and what is
served now all come before the answer. Nothing changes here before the lead has everybody's yes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from peerllm.engine.courtesy import on_thread
from peerllm.engine.exchange import Exchange
from peerllm.engine.group_span import follow
from peerllm.engine.slice_engine import SliceEngine
from peerllm.errors import BadFrame, GroupBroken, PeerGone, PeerllmError, WireError
from peerllm.serving.group_channels import ChannelDoor, Mesh, connected
from peerllm.serving.slice_work import loaded_slice
from peerllm.wire.group_messages import GROUP_PROTOCOL, Assemble, Assembled, Declined, Invite, Willing
from peerllm.wire.live_stream import LiveStream, while_open
from peerllm.wire.messages import Close, Leaving
from peerllm.wire.transport import Transport

log = logging.getLogger(__name__)

FIRST_FRAME_S = 5.0
"""For whoever opens the stream to say what for."""

FETCH_S = 600.0
"""For a member to fetch what it lacks of its slice; the lead waits no longer for its yes."""

DECIDE_S = FETCH_S
"""For all others to say yes as well."""

LEAVE_S = 0.5
"""Between a member's word that it leaves and its leaving: its owner is to have the machine within 2 s, and the lead
hands its sessions over meanwhile."""


@dataclass
class Place:
    """One place in one group, from the invitation on."""

    invite: Invite
    own: int
    stream: LiveStream  # to the lead
    mesh: Mesh
    over: asyncio.Event = field(default_factory=asyncio.Event)


LoadOwn = Callable[[], SliceEngine]
"""Called on a thread."""


class GroupMember:
    """Answers invitations; `follow_lead` is what becomes of an accepted one."""

    def __init__(
        self,
        transport: Transport,
        door: ChannelDoor,
        objection: Callable[[Invite], str | None],
        fetch: Callable[[Invite, int], None],
        joins: Callable[[Place], None],
    ) -> None:
        """`fetch` gets the slice's files (on a thread), `objection` says why not, `joins` hears that it begins."""
        self._transport = transport
        self._door = door
        self._objection = objection
        self._fetch = fetch
        self._joins = joins
        self._place: Place | None = None

    @property
    def busy(self) -> bool:
        """Is there an invitation that is not over?"""
        return self._place is not None

    async def start(self) -> None:
        await self._transport.serve(GROUP_PROTOCOL, self._invited)

    async def _invited(self, stream: LiveStream) -> None:
        async with asyncio.timeout(FIRST_FRAME_S):
            invite = await stream.receive()
        if not isinstance(invite, Invite):
            raise BadFrame(f"a group begins with Invite, not with {type(invite).__name__}")
        peers = invite.peers
        if peers[0] != stream.peer_id or self._transport.peer_id not in peers[1:]:
            raise BadFrame("an invitation comes from the group's lead, and names whom it is for")
        why_not = "it is in a group, or about to be" if self.busy else self._objection(invite)
        if why_not is not None:
            await stream.send(Declined(why_not))
            return
        own = peers.index(self._transport.peer_id)
        self._place = place = Place(invite, own, stream, self._door.expect(invite.members, own))
        try:
            await self._take_place(place)
        finally:
            place.over.set()
            place.mesh.close()
            self._place = None

    async def _take_place(self, place: Place) -> None:
        """Say yes once the slice's files are here, and stay until the group is over."""
        try:
            async with asyncio.timeout(FETCH_S):
                await while_open(place.stream, on_thread(lambda: self._fetch(place.invite, place.own), polite=True))
        except (PeerllmError, OSError) as problem:
            await place.stream.send(Declined(str(problem)))
            return
        if (why_not := self._objection(place.invite)) is not None:  # what has been here so long ago may have changed
            await place.stream.send(Declined(why_not))
            return
        await place.stream.send(Willing())
        async with asyncio.timeout(DECIDE_S):
            message = await place.stream.receive()
        if isinstance(message, Assemble):
            self._joins(place)
            await place.over.wait()


async def follow_lead(place: Place, load: LoadOwn, hidden: int, *, polite: bool) -> str:
    """Load the slice and compute it for the lead until the group is over; why it is.

    Cancelled, it tells the lead and goes on for `LEAVE_S`.
    """
    try:
        engine = await loaded_slice(load, polite=polite)
        try:
            exchange = await connected(place.mesh, place.invite, place.own, hidden)
        except BaseException:
            engine.shutdown()
            raise
        return await _computed(place, engine, exchange, hidden, polite=polite)
    except PeerGone as gone:
        return f"the lead is gone, or a member: {gone}"
    except PeerllmError as problem:
        with suppress(WireError):
            await place.stream.send(Declined(str(problem)))
        raise
    finally:
        place.over.set()


async def _computed(place: Place, engine: SliceEngine, exchange: Exchange, hidden: int, *, polite: bool) -> str:
    """Until the lead closes, is gone, or this task is cancelled."""
    weights_bytes = engine.info.weights_bytes
    computing = asyncio.ensure_future(on_thread(lambda: _follow_and_free(engine, exchange, hidden), polite=polite))
    hearing = asyncio.create_task(_heard(place.stream))
    try:
        await place.stream.send(Assembled(weights_bytes))
        await asyncio.wait((computing, hearing), return_when=asyncio.FIRST_COMPLETED)
        return hearing.result() if hearing.done() else await _outcome(computing)
    except asyncio.CancelledError:
        with suppress(WireError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await place.stream.send(Leaving(LEAVE_S))
                await hearing
        raise
    finally:
        exchange.shut()
        hearing.cancel()
        await asyncio.gather(computing, hearing, return_exceptions=True)  # neither leaves an error that nobody takes


def _follow_and_free(engine: SliceEngine, exchange: Exchange, hidden: int) -> None:
    """On one thread, so that nobody frees what still computes, however this peer's tasks end."""
    try:
        follow(engine, exchange, hidden)
    finally:
        exchange.close()
        engine.shutdown()


async def _heard(stream: LiveStream) -> str:
    """What ends the group, as the lead says it, or its silence."""
    try:
        message = await stream.receive()
    except WireError as gone:
        return f"the lead is gone: {gone}"
    return message.reason if isinstance(message, Close) else "the lead has dissolved the group"


async def _outcome(computing: asyncio.Future[None]) -> str:
    try:
        await computing
    except GroupBroken as broken:
        return str(broken)
    return "the lead has dissolved the group"
