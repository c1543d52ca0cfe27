"""The channels of a group: one between every two members, of which the later in the group's order opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from peerllm.engine.budget import prefill_rows
from peerllm.engine.exchange import Exchange
from peerllm.engine.sync_form import SyncForm
from peerllm.errors import PeerGone
from peerllm.wire.group_messages import Invite
from peerllm.wire.raw_channel import RawChannel, open_channel, serve_channels
from peerllm.wire.transport import Transport
from peerllm_swarm.span import PeerId

PURPOSE = "peerllm.group.channel/1"

CONNECT_S = 90.0
"""For the slowest member to give its span up, load its slice and open its channels."""

Named = tuple[PeerId, tuple[str, ...]]
"""A member and its addresses."""


async def connected(mesh: Mesh, invite: Invite, own: int, hidden: int) -> Exchange:
    """What partial sums of the group go through; its channels end with it. Raises `PeerGone`."""
    channels = await mesh.complete(CONNECT_S)
    return Exchange(channels, own, SyncForm(invite.sync), values=prefill_rows(hidden) * hidden)


class ChannelDoor:
    """Takes the channels that members of this peer's group open; whoever is not expected is turned away."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._mesh: Mesh | None = None

    def open(self) -> bool:
        """Take channels from now on; False if this peer has no direct sockets, and hence no groups."""
        try:
            serve_channels(self._transport, PURPOSE, self._take)
        except PeerGone:
            return False
        return True

    def expect(self, members: Sequence[Named], own: int) -> Mesh:
        """The channels of this group, from now on; of one group at a time."""
        self._mesh = Mesh(self._transport, members, own)
        return self._mesh

    async def _take(self, channel: RawChannel) -> None:
        if self._mesh is not None:
            await self._mesh.take(channel)


class Mesh:
    """One member's channels while they come about; `close` them once nobody uses them."""

    def __init__(self, transport: Transport, members: Sequence[Named], own: int) -> None:
        self._transport = transport
        self._members = members
        self._own = own
        self._coming: dict[PeerId, asyncio.Future[RawChannel]] = {
            peer: asyncio.get_running_loop().create_future() for peer, _ in members[own + 1 :]
        }
        self._over = asyncio.Event()

    async def complete(self, within_s: float) -> list[RawChannel | None]:
        """A channel to every member in order, None at this one's own place.

        Raises:
            PeerGone: one of them did not come about in time.
        """
        opened: list[asyncio.Task[RawChannel]] = []
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as opening:
                opened += [
                    opening.create_task(open_channel(self._transport, peer, addresses, PURPOSE, within_s))
                    for peer, addresses in self._members[: self._own]
                ]
                for coming in self._coming.values():
                    await asyncio.shield(coming)
        except* (TimeoutError, PeerGone) as problems:
            _close(task.result() for task in opened if task.done() and not task.cancelled() and not task.exception())
            raise PeerGone(f"no channels to all members within {within_s:g} s: {problems.exceptions[0]}") from problems
        before: list[RawChannel | None] = [task.result() for task in opened]
        return [*before, None, *(coming.result() for coming in self._coming.values())]

    async def take(self, channel: RawChannel) -> None:
        """Keep a channel that a member has opened, until the group is over."""
        coming = self._coming.get(channel.peer_id)
        if coming is not None and not coming.done() and not self._over.is_set():
            coming.set_result(channel)
            await self._over.wait()

    def close(self) -> None:
        """Those that others have opened are closed with this; those that this side has opened belong to its caller."""
        self._over.set()


def _close(channels: Iterable[RawChannel]) -> None:
    for channel in channels:
        channel.socket.close()
