"""This peer's part in tensor-parallel groups: whether to lead one now, and its place in somebody else's.

Carries out what `grouping` decides. docs/groups.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from peerllm.engine.group_span import GroupSpan
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import NoGroup, NoMemory, WireError
from peerllm.model.progress import Progress
from peerllm.model.store import StoredModel
from peerllm.presence import Presence
from peerllm.serving.channel_ping import answer_channel_pings, measure_channel
from peerllm.serving.group_channels import ChannelDoor
from peerllm.serving.group_lead import Group, invitation
from peerllm.serving.group_member import GroupMember, Place, follow_lead
from peerllm.serving.loaded_span import LoadedSpan
from peerllm.serving.offer import Offer
from peerllm.serving.slice_work import fetch_slice, group_room, heads_part, load_member, require_slice_room, shape_of
from peerllm.wire.group_messages import Invite
from peerllm.wire.transport import Transport
from peerllm_swarm.errors import CannotSlice
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.grouping import Around, GroupPlan, GroupVerdict, Member, Terms, propose_group, reason_to_part
from peerllm_swarm.records import PeerState, SwarmView
from peerllm_swarm.score import UNKNOWN_BLOCK_MS
from peerllm_swarm.slices import check_slices
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

NEAR_MS = 5.0
"""By the pings of streams, which take longer than channels: farther peers are not worth opening one."""

MOST_MEASURED = 12
"""More members than a group has, since not all of them may be wanted."""


@dataclass(frozen=True)
class GroupPace:
    """How often a peer thinks of groups, in seconds."""

    first_s: float = 30.0  # after it has begun to serve: the others have been pinged by then
    interval_s: float = 60.0
    part_s: float = 60.0  # between two looks at whether the swarm needs the members apart
    rest_s: float = 900.0  # before a peer that said no, or was lost, is invited again


class Groups:
    """Off while `form` is None; otherwise as the owner wants partial sums to travel."""

    def __init__(
        self,
        presence: Presence,
        transport: Transport,
        rtt_ms: Callable[[PeerId], float | None],
        progress: Progress,
        *,
        form: SyncForm | None,
        cap: ThreadCap | None = None,
        pace: GroupPace = GroupPace(),
        random: Random | None = None,
        same_machine: bool = False,
    ) -> None:
        """`same_machine`: members may share one machine, and so its cores."""
        self._presence = presence
        self._transport = transport
        self._rtt_ms = rtt_ms
        self._progress = progress
        self._form = form
        self._cap = cap
        self._pace = pace
        self._random = random or Random()
        self._same_machine = same_machine
        self._door = ChannelDoor(transport)
        self._member: GroupMember | None = None
        self._lent: tuple[StoredModel, Offer] | None = None
        self._resting: dict[PeerId, float] = {}  # until when each is not invited
        self._channel_ms: dict[PeerId, float] | None = None  # to those that are near, when last looked at
        self.leading = False

    @property
    def busy(self) -> bool:
        """Leads a group, is about to, or has been invited to one."""
        return self.leading or (self._member is not None and self._member.busy)

    async def start(self, unwilling: Callable[[], str | None], joins: Callable[[Place], None]) -> None:
        """Answer invitations from now on, where this peer has direct sockets and its owner lends to groups.

        `unwilling` says why it joins none at the moment; `joins` is told of a place once its lead begins.
        """
        if self._form is not None and self._door.open():
            answer_channel_pings(self._transport)
            self._member = GroupMember(
                self._transport, self._door, lambda invite: unwilling() or self._objection(invite), self._fetch, joins
            )
            await self._member.start()

    def lend(self, stored: StoredModel, offer: Offer) -> float:
        """This is what is lent from now on; the blocks, with a fraction, that it says it would hold for a group."""
        self._lent = (stored, offer)
        off = self._form is None or self._member is None or offer.pinned is not None or shape_of(stored, offer) is None
        return 0.0 if off else group_room(offer)

    def _objection(self, invite: Invite) -> str | None:
        """Why this peer does not take the place; None if it does."""
        if self._lent is None:
            return "it has not chosen a model yet"
        stored, offer = self._lent
        if self.leading:
            return "it leads a group, or is about to"
        if offer.pinned is not None:
            return "its owner has fixed its blocks"
        if invite.fingerprint != offer.fingerprint:
            return "it serves another model"
        shape = shape_of(stored, offer)
        if shape is None:
            return "its engine serves no slices"
        own = invite.parts[invite.peers.index(self._presence.peer_id)]
        try:
            check_slices(shape, invite.parts)
            require_slice_room(offer, shape, invite.span, own, slots=invite.slots, context_tokens=invite.context_tokens)
        except (CannotSlice, NoMemory) as problem:
            return str(problem)
        return None

    def _fetch(self, invite: Invite, own: int) -> None:
        if self._lent is not None:
            fetch_slice(self._lent[0], invite, own, self._progress)

    def words(self, served: LoadedSpan | None) -> str:
        """Why this peer leads a group, or why it does not, with the numbers; for people."""
        if self._lent is None:
            return ""
        stored, offer = self._lent
        if served is None or served.group is None:
            block_ms = served.block_ms if served is not None else UNKNOWN_BLOCK_MS
            return self.verdict(self._presence.view(), stored, offer, block_ms).why
        plan, others = served.group.plan, len(served.group.members)
        return (
            f"leads a group with {others} other member{'s' * (others != 1)}: {served.block_ms:.3f} ms per block, "
            f"{plan.speed.block_ms:.3f} were predicted, {plan.alone_ms:.3f} alone"
        )

    def verdict(self, view: SwarmView, stored: StoredModel, offer: Offer, block_ms: float) -> GroupVerdict:
        """Whether this peer should lead a group now, and why or why not."""
        if self._form is None:
            return GroupVerdict(None, None, "groups are off (contribution.groups)")
        if self._member is None:
            return GroupVerdict(None, None, "this peer has no direct sockets, which members send partial sums over")
        shape = shape_of(stored, offer)
        if shape is None or offer.pinned is not None:
            why = "its engine serves no slices of this model" if shape is None else "its owner has fixed its blocks"
            return GroupVerdict(None, None, why)
        me = Member(self._presence.peer_id, block_ms, group_room(offer))
        if self._channel_ms is None:
            return GroupVerdict(None, None, "it has not looked around yet")
        here = {record.peer_id for record in view.of(offer.fingerprint)}
        rtt_ms = {peer: ms for peer, ms in self._channel_ms.items() if peer in here}
        resting = frozenset(peer for peer, until in self._resting.items() if until > view.at)
        terms = Terms(shape, self._form, heads_part=heads_part(offer, shape))
        return propose_group(view, me, offer.fingerprint, offer.spec.blocks, terms, Around(rtt_ms, resting))

    async def wanted(self, stored: StoredModel, offer: Offer, block_ms: float) -> GroupPlan:
        """Return when this peer should lead a group."""
        await asyncio.sleep(self._pace.first_s)
        while True:
            if not self.busy:
                await self._measure(offer)
                verdict = await asyncio.to_thread(self.verdict, self._presence.view(), stored, offer, block_ms)
                if verdict.plan is not None:
                    return verdict.plan
            await asyncio.sleep(self._pace.interval_s * (0.5 + self._random.random()))

    async def invited(self, plan: GroupPlan, stored: StoredModel, offer: Offer) -> Invitation:
        """All members are willing, and what this peer's slice needs is on its disk.

        Raises:
            NoGroup: who declined, or was not reached; nobody has given anything up.
        """
        records = {record.peer_id: record.addresses for record in self._presence.view().records}
        invite = invitation(plan, offer, records, self._form or SyncForm.FLOAT32)
        group = Group(plan)
        self.leading = True
        try:
            await group.invite(invite, self._transport, self._door)
            await asyncio.to_thread(fetch_slice, stored, invite, 0, self._progress)
        except BaseException as problem:
            await self.given_up(group, "the group does not come about")
            if isinstance(problem, NoGroup):
                log.info("no group of=%d: %s", len(plan.members), problem)
            raise
        return Invitation(group, invite)

    async def assembled(self, invitation: Invitation, stored: StoredModel, offer: Offer) -> GroupSpan:
        """The group's engine; on any failure the group is given up. Raises `NoGroup`, `WrongResults`."""
        load = partial(load_member, stored, offer, invitation.invite, 0, self._cap, self._progress)
        try:
            return await invitation.group.assemble(invitation.invite, stored, offer, load)
        except BaseException:
            await self.given_up(invitation.group, "the group does not come about")
            raise

    async def given_up(self, group: Group, reason: str) -> None:
        """Dissolve it, and leave its members alone for a while."""
        self.leading = False
        until = time.time() + self._pace.rest_s
        self._resting = {peer: at for peer, at in self._resting.items() if at > time.time()}
        self._resting.update(dict.fromkeys(group.members, until))
        await group.dissolve(reason)

    async def until_parted(self, group: Group, offer: Offer, block_ms: float) -> str:
        """Return when a group that serves is over: a member leaves or is gone, or the swarm needs them apart."""
        over = asyncio.create_task(group.over())
        try:
            while True:
                await asyncio.wait((over,), timeout=self._pace.part_s)
                if over.done():
                    group.abandon()
                    return over.result()
                reason = reason_to_part(
                    self._presence.view(),
                    group.plan.members,
                    group.plan.span,
                    block_ms,
                    offer.fingerprint,
                    offer.spec.blocks,
                )
                if reason is not None:
                    return reason
        finally:
            over.cancel()
            await asyncio.wait((over,))

    async def _measure(self, offer: Offer) -> None:
        """Round trips over channels to the peers that are near by what pings say, and would join a group."""
        view = self._presence.view()
        near = [record for record in view.of(offer.fingerprint) if record.group_room and self._is_near(record.peer_id)]
        nearest = sorted(near, key=lambda record: self._rtt_ms(record.peer_id) or 0.0)[:MOST_MEASURED]
        found: dict[PeerId, float] = {}
        for record in nearest:  # one after the other: together they would measure one another
            try:
                found[record.peer_id] = await measure_channel(
                    self._transport, record.peer_id, record.addresses, same_machine=self._same_machine
                )
            except (WireError, OSError) as error:
                log.debug("no channel to peer=%s: %s", record.peer_id, error)
        self._channel_ms = found

    def _is_near(self, peer: PeerId) -> bool:
        rtt_ms = self._rtt_ms(peer)
        return peer != self._presence.peer_id and rtt_ms is not None and rtt_ms <= NEAR_MS

    async def follow(self, place: Place, stored: StoredModel, offer: Offer) -> str:
        """Serve a slice in somebody else's group until that is over; why it is."""
        lead = place.invite.peers[0]
        await self._presence.publish(
            state=PeerState.IDLE,
            span=None,
            group=lead,
            members=(),
            plan=(),
            capacity_blocks=0,
            slots_free=0,
            moving_until=0.0,
            group_room=0.0,
        )
        load = partial(load_member, stored, offer, place.invite, place.own, self._cap, self._progress)
        self._resting[lead] = time.time() + self._pace.rest_s  # a group that ends is not made again at once
        return await follow_lead(place, load, offer.spec.hidden, polite=offer.polite)


@dataclass(frozen=True)
class Invitation:
    """A group whose members are all willing, and what they were asked."""

    group: Group
    invite: Invite
