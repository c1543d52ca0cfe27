"""Leading a tensor-parallel group: invite its members, load, connect, and know when it is over.

A group comes about for all or for nobody. Until everybody is willing nothing has changed anywhere; if it fails behind
that, all who gave their spans up choose again and have them on their disks.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from peerllm.engine.courtesy import on_thread
from peerllm.engine.exchange import Exchange
from peerllm.engine.group_span import GroupSpan
from peerllm.engine.self_test import self_test
from peerllm.engine.slice_engine import SliceEngine
from peerllm.engine.span_engine import fingerprint
from peerllm.errors import NoGroup, PeerllmError, WireError
from peerllm.model.store import StoredModel
from peerllm.serving.group_channels import CONNECT_S, ChannelDoor, Mesh, connected
from peerllm.serving.group_member import FETCH_S
from peerllm.serving.offer import Offer
from peerllm.serving.slice_work import loaded_slice
from peerllm.wire.group_messages import GROUP_PROTOCOL, Assemble, Assembled, Declined, Invite, Willing
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Close, Leaving, Message
from peerllm.wire.transport import Transport
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.grouping import GroupPlan
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

REACH_S = 5.0
"""For a member to be reached."""

GOODBYE_S = 1.0
"""For members to be told that the group is dissolved; whoever misses it notices that its channels are closed."""


class Group:
    """A group that this peer leads, from its invitation to its end; `engine` is its span once it is formed."""

    def __init__(self, plan: GroupPlan) -> None:
        self.plan = plan
        self._streams: dict[PeerId, LiveStream] = {}
        self._mesh: Mesh | None = None
        self.engine: GroupSpan | None = None

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All but this peer."""
        return tuple(member.peer_id for member in self.plan.members[1:])

    async def invite(self, invite: Invite, transport: Transport, door: ChannelDoor) -> None:
        """Ask every member, and return once all are willing.

        Raises:
            NoGroup: one declined or was not reached; nothing has changed anywhere.
        """
        self._mesh = door.expect(invite.members, 0)
        try:
            async with asyncio.TaskGroup() as asking:
                for peer, addresses in invite.members[1:]:
                    asking.create_task(self._ask(peer, addresses, invite, transport))
        except* (PeerllmError, TimeoutError) as problems:
            raise NoGroup(_first(problems)) from problems

    async def assemble(
        self, invite: Invite, stored: StoredModel, offer: Offer, load: Callable[[], SliceEngine]
    ) -> GroupSpan:
        """The group's engine, tested; members load while this peer does.

        Raises:
            NoGroup: a member was lost on the way, or failed; `dissolve` tells the others.
            WrongResults: together they compute something else than is known of the span.
        """
        for stream in self._streams.values():
            await stream.send(Assemble())
        hidden = offer.spec.hidden
        own = await loaded_slice(load, polite=offer.polite)
        try:
            exchange = await self._exchange(invite, hidden)
        except BaseException:
            own.shutdown()
            raise

        def agree() -> GroupSpan:
            try:
                engine = GroupSpan.assemble(own, exchange, hidden)
                learnt = stored.span_cache / f"activations-{fingerprint(offer.spec, offer.engine, offer.dtype)}.json"
                self_test(engine, offer.spec, learnt)
            except BaseException:
                exchange.close()
                own.shutdown()
                raise
            return engine

        self.engine = await on_thread(agree, polite=offer.polite)
        return self.engine

    async def over(self) -> str:
        """Return once a member leaves or is gone: who, and why."""
        watching = [asyncio.create_task(_end_of(peer, stream)) for peer, stream in self._streams.items()]
        try:
            ended, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return ended.pop().result()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def abandon(self) -> None:
        """A member is gone: let no step wait for it."""
        if self.engine is not None:
            self.engine.abandon()

    async def dissolve(self, reason: str) -> None:
        """Tell the members; the engine is freed by whoever runs it."""
        streams, self._streams = self._streams, {}
        if self._mesh is not None:
            self._mesh.close()
        await asyncio.gather(*(_say_goodbye(stream, reason) for stream in streams.values()))

    async def _ask(self, peer: PeerId, addresses: Sequence[str], invite: Invite, transport: Transport) -> None:
        stream = await transport.open_stream(peer, addresses, GROUP_PROTOCOL, REACH_S)
        self._streams[peer] = stream
        await stream.send(invite)
        async with asyncio.timeout(FETCH_S):
            _expect(await stream.receive(), Willing, peer)

    async def _exchange(self, invite: Invite, hidden: int) -> Exchange:
        """Through which the group computes, once every member says that it is ready."""
        if self._mesh is None:
            raise NoGroup("members are invited before they assemble")
        connecting = asyncio.create_task(connected(self._mesh, invite, 0, hidden))
        try:
            async with asyncio.timeout(CONNECT_S), asyncio.TaskGroup() as waiting:
                for peer, stream in self._streams.items():
                    waiting.create_task(_assembled(peer, stream))
                await asyncio.shield(connecting)
            return connecting.result()
        except* (PeerllmError, TimeoutError) as problems:
            connecting.add_done_callback(_close)
            connecting.cancel()
            raise NoGroup(_first(problems)) from problems


def invitation(plan: GroupPlan, offer: Offer, addresses: Mapping[PeerId, tuple[str, ...]], form: SyncForm) -> Invite:
    """What the lead asks of its members: the same sessions as it would serve by itself."""
    return Invite(
        group=os.urandom(16),
        fingerprint=offer.fingerprint,
        start=plan.span.start,
        end=plan.span.end,
        members=tuple((member.peer_id, addresses.get(member.peer_id, ())) for member in plan.members),
        slices=tuple((*part.kv_heads, *part.columns) for part in plan.slices),
        sync=form,
        slots=offer.slots,
        context_tokens=offer.context_tokens,
    )


async def _assembled(peer: PeerId, stream: LiveStream) -> None:
    _expect(await stream.receive(), Assembled, peer)


def _expect(message: Message, kind: type[Message], peer: PeerId) -> None:
    if isinstance(message, Declined):
        raise NoGroup(f"…{peer[-6:]} declines: {message.reason}")
    if not isinstance(message, kind):
        raise NoGroup(f"…{peer[-6:]} answered {type(message).__name__}, not {kind.__name__}")


async def _end_of(peer: PeerId, stream: LiveStream) -> str:
    try:
        message = await stream.receive()
    except WireError as gone:
        return f"…{peer[-6:]} is gone: {gone}"
    if isinstance(message, Declined):
        return f"…{peer[-6:]} has failed: {message.reason}"
    return f"…{peer[-6:]} leaves" if isinstance(message, Leaving) else f"…{peer[-6:]} has ended it"


async def _say_goodbye(stream: LiveStream, reason: str) -> None:
    with suppress(WireError, TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await stream.send(Close(reason))
    await stream.close()


def _first(problems: BaseExceptionGroup[Exception]) -> str:
    problem: BaseException = problems
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return str(problem) or "a member did not answer in time"


def _close(connecting: asyncio.Task[Exchange]) -> None:
    """Free the channels that nobody waits for any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
