"""Should this peer lead a tensor-parallel group, with whom, and how is a block cut among them? And is it still right?

A group is one lender with pooled room and its own speed, so the common score of placements says what everybody has of
it: what its members served before is missing, the throughput of many streams counts as much as everywhere, and blocks
that nobody else covers stay. Time, measurements and records come in as arguments. Source: docs/placement.md#groups.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from peerllm_swarm.errors import CannotSlice, NoRoom
from peerllm_swarm.group_traffic import GIGABIT_BYTES_PER_S, GroupSpeed, SyncForm, group_speed
from peerllm_swarm.multiaddress import Multiaddress
from peerllm_swarm.others import Others
from peerllm_swarm.placement import join_rule
from peerllm_swarm.prices import is_relayed
from peerllm_swarm.rebalance import scoring_of
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.score import Claim, Lender, Score, Scoring, believable_block_ms
from peerllm_swarm.slices import MOST_MEMBERS, BlockShape, BlockSlice, slices_for
from peerllm_swarm.span import BlockSpan, PeerId
from peerllm_swarm.surroundings import surroundings_in

LEAST_GAIN = 0.1
"""A group must lower the common score by this part, and so must its end: three times what a move needs, since several
machines load anew for it and the time per block is predicted, not measured."""

MOST_RTT_MS = 2.0
"""Beyond it no model's block is slow enough to wait for two exchanges; wireless LANs are often above it."""


@dataclass(frozen=True)
class Terms:
    """What a group of this model would be like on this LAN."""

    shape: BlockShape
    form: SyncForm = SyncForm.FLOAT32
    bytes_per_s: float = GIGABIT_BYTES_PER_S
    most_members: int = MOST_MEMBERS
    heads_part: float | None = None  # of a block's memory, as in `slices_for`


@dataclass(frozen=True)
class Member:
    """A peer of which a group could be made."""

    peer_id: PeerId
    block_ms: float  # by itself
    room: float  # blocks, with a fraction, that it holds by itself
    relayed: bool = False


@dataclass(frozen=True)
class Around:
    """What this peer has measured and remembers of the others.

    `resting` were in a group, or said no to one, a moment ago.
    """

    rtt_ms: Mapping[PeerId, float] = field(default_factory=dict[PeerId, float])
    resting: frozenset[PeerId] = frozenset()


@dataclass(frozen=True)
class GroupPlan:
    """A group that could be: who, the lead first, which span, and who holds what of its blocks."""

    members: tuple[Member, ...]
    span: BlockSpan
    slices: tuple[BlockSlice, ...]
    speed: GroupSpeed
    rtt_ms: float
    before: Score
    after: Score

    @property
    def lead(self) -> PeerId:
        return self.members[0].peer_id

    @property
    def alone_ms(self) -> float:
        """Of a block at the fastest member by itself."""
        return min(member.block_ms for member in self.members)

    @property
    def pays(self) -> bool:
        """Is it faster than its fastest member?"""
        return self.speed.block_ms < self.alone_ms

    @property
    def covers_more(self) -> bool:
        return self.after.uncovered < self.before.uncovered


@dataclass(frozen=True)
class GroupVerdict:
    """`plan` is to be carried out by its lead; `best` is what came nearest to it; `why` is for people."""

    plan: GroupPlan | None
    best: GroupPlan | None
    why: str


def propose_group(
    view: SwarmView, me: Member, fingerprint: str, blocks: int, terms: Terms, around: Around
) -> GroupVerdict:
    """The group that this peer should lead now, if there is one.

    All peers that see the same records and have measured like round trips find the same group, and its lead is the
    least of them that the swarm reaches without a relay: two do not invite one another.
    """
    others = Others.of(view, fingerprint, blocks, me.peer_id)
    spans = [record.span for record in view.of(fingerprint) if record.peer_id == me.peer_id]
    claims = [*others.firm, *others.soft, *(Claim(_lender(me), span) for span in spans if span is not None)]
    near = neighbours(view, me, fingerprint, blocks, around)
    if not near:
        return GroupVerdict(None, None, "no other peer of this model on this LAN would join a group")
    scoring = _scoring(view, fingerprint, blocks, claims, (me, *near))
    before = scoring.score(claims)
    links = {(one, other): ms for one, of in scoring.links.rtt_ms.items() for other, ms in of.items()}
    best: GroupPlan | None = None
    refusal = ""
    for members in _choices(me, near, terms):
        try:
            plan = _planned(members, me, claims, before, scoring, terms, around.rtt_ms, links)
        except CannotSlice as problem:
            refusal = str(problem)
            continue
        if best is None or _worth(plan) < _worth(best):
            best = plan
    if best is None:
        return GroupVerdict(None, None, refusal or "no group of these peers holds a block")
    lenders = [*(claim.lender for claim in claims if claim.lender.peer_id != me.peer_id), *others.waiting, _lender(me)]
    alone = sum(lender.capacity_blocks for lender in lenders)
    objection = _objection(best, me, pooled_only=alone < blocks) or _passing(view, best, fingerprint, blocks)
    return GroupVerdict(None if objection else best, best, objection or _reason(best))


def neighbours(view: SwarmView, me: Member, fingerprint: str, blocks: int, around: Around) -> tuple[Member, ...]:
    """The peers of this model that are near enough and would join, the fastest first."""
    found: list[Member] = []
    for record in view.of(fingerprint):
        rtt_ms = around.rtt_ms.get(record.peer_id)
        if record.peer_id == me.peer_id or rtt_ms is None or rtt_ms > MOST_RTT_MS:
            continue
        if record.blocks == blocks and record.peer_id not in around.resting and _would_join(record, view.at):
            found.append(member_of(record))
    return tuple(sorted(found, key=lambda member: (member.block_ms, member.peer_id)))


def member_of(record: PeerRecord) -> Member:
    room = min(record.group_room, float(record.blocks))
    return Member(record.peer_id, believable_block_ms(record.decode_ms), room, is_relayed(record))


def reason_to_part(
    view: SwarmView, members: Sequence[Member], span: BlockSpan, block_ms: float, fingerprint: str, blocks: int
) -> str | None:
    """Why the group of these members (the lead first) is not right any more; None while it is.

    Asked of what everybody would have of it if they went, each to the span that the join rule gives it.
    """
    lead = members[0].peer_id
    others = Others.of(view, fingerprint, blocks, lead)
    claims = [*others.firm, *others.soft]
    scoring = _scoring(view, fingerprint, blocks, claims, members)
    together = scoring.score([*claims, Claim(Lender(lead, len(span), block_ms), span)])
    surroundings = surroundings_in(view, fingerprint)
    parted = list(claims)
    for member in sorted(members, key=lambda member: member.peer_id):
        try:
            parted.append(Claim(_lender(member), join_rule(parted, _lender(member), blocks, surroundings=surroundings)))
        except NoRoom:
            continue  # it serves in groups only
    apart = scoring.score(parted)
    if apart.uncovered < together.uncovered:
        return f"each for itself they cover {together.uncovered - apart.uncovered} blocks more"
    if apart.uncovered == together.uncovered == 0 and apart.cost <= together.cost * (1 - LEAST_GAIN):
        return f"each for itself they lower the score by {1 - apart.cost / together.cost:.0%}: more streams at once"
    return None


def _would_join(record: PeerRecord, now: float) -> bool:
    free = record.state in (PeerState.ONLINE, PeerState.ANNOUNCED) and record.moving_until <= now
    on_lan = any(address is not None and address.is_lan for address in map(Multiaddress.try_parse, record.addresses))
    return free and on_lan and record.group_room > 0 and not record.group and not record.members


def _choices(me: Member, near: Sequence[Member], terms: Terms) -> Iterator[tuple[Member, ...]]:
    """With the fastest neighbour, the two fastest, and so on; in each the lead first and the others by id."""
    most = min(terms.most_members, MOST_MEMBERS, len(near) + 1)
    for count in range(2, most + 1):
        lead, *others = sorted((me, *near[: count - 1]), key=lambda member: (member.relayed, member.peer_id))
        yield lead, *others


def _planned(
    members: tuple[Member, ...],
    me: Member,
    claims: Sequence[Claim],
    before: Score,
    scoring: Scoring,
    terms: Terms,
    measured_ms: Mapping[PeerId, float],
    links: Mapping[tuple[PeerId, PeerId], float],
) -> GroupPlan:
    """The best span for these members, and how they would share it."""
    apart_ms = _widest_ms(members, me, measured_ms, links)
    capacity, slices = _most_blocks(members, scoring.blocks, terms)
    speed = _speed(members, slices, terms, apart_ms)
    group = Lender(members[0].peer_id, capacity, speed.block_ms)
    names = {member.peer_id for member in members}
    rest = [claim for claim in claims if claim.lender.peer_id not in names]
    responses = scoring.responses(rest, group, capacity)
    span = responses.best()
    slices = _cut(members, len(span), terms)
    return GroupPlan(members, span, slices, _speed(members, slices, terms, apart_ms), apart_ms, before, responses[span])


def _most_blocks(members: Sequence[Member], blocks: int, terms: Terms) -> tuple[int, tuple[BlockSlice, ...]]:
    """How many blocks they hold together, and how they share each of them then."""
    problem = CannotSlice(f"{len(members)} members hold {sum(member.room for member in members):.2f} blocks together")
    for count in range(min(blocks, math.floor(sum(member.room for member in members) + 1e-9)), 0, -1):
        try:
            return count, _cut(members, count, terms)
        except CannotSlice as refused:
            problem = refused
    raise problem


def _cut(members: Sequence[Member], blocks: int, terms: Terms) -> tuple[BlockSlice, ...]:
    ceilings = [min(1.0, member.room / blocks) for member in members]
    weights = [1 / member.block_ms for member in members]
    return slices_for(terms.shape, weights, ceilings=ceilings, heads_part=terms.heads_part)


def _speed(members: Sequence[Member], slices: Sequence[BlockSlice], terms: Terms, rtt_ms: float) -> GroupSpeed:
    alone = [member.block_ms for member in members]
    return group_speed(terms.shape, slices, alone, form=terms.form, rtt_ms=rtt_ms, bytes_per_s=terms.bytes_per_s)


def _widest_ms(
    members: Sequence[Member],
    me: Member,
    measured_ms: Mapping[PeerId, float],
    links: Mapping[tuple[PeerId, PeerId], float],
) -> float:
    """The longest round trip between two of them; none is longer than the way through this peer."""
    longest = 0.0
    for at, one in enumerate(members):
        for other in members[at + 1 :]:
            ends = [peer.peer_id for peer in (one, other) if peer.peer_id != me.peer_id]
            through_me = sum(measured_ms[peer] for peer in ends)
            direct = through_me if len(ends) == 1 else links.get((one.peer_id, other.peer_id), through_me)
            longest = max(longest, min(direct, through_me))
    return longest


def _worth(plan: GroupPlan) -> tuple[bool, Score, int]:
    return not (plan.pays or plan.covers_more), plan.after, len(plan.members)


def _objection(plan: GroupPlan, me: Member, *, pooled_only: bool) -> str:
    """Why this group is not to be, "" if it is."""
    numbers = f"{plan.speed.block_ms:.3f} ms per block ({_parts(plan)}), {plan.alone_ms:.3f} alone"
    if plan.after.uncovered > plan.before.uncovered:
        return f"blocks that nobody else covers would be missing: {plan.after.uncovered}"
    if plan.before.uncovered:
        if not plan.covers_more:
            return "blocks are missing, and a group would not cover more of them"
        if not pooled_only:
            return "blocks are missing that peers can cover each for itself"
    elif not plan.pays:
        return f"{len(plan.members)} members would not be faster: {numbers}"
    elif plan.after.cost > plan.before.cost * (1 - LEAST_GAIN):
        gain = 1 - plan.after.cost / plan.before.cost
        return f"the swarm would have too little of it ({gain:.0%}, {LEAST_GAIN:.0%} is needed): {numbers}"
    if plan.lead != me.peer_id:
        return f"{plan.lead[-6:]} is to lead it: {numbers}"
    return ""


def _passing(view: SwarmView, plan: GroupPlan, fingerprint: str, blocks: int) -> str:
    """Why the group would part as soon as it is there, "" if it would not."""
    reason = reason_to_part(grouped(view, plan), plan.members, plan.span, plan.speed.block_ms, fingerprint, blocks)
    return "" if reason is None else f"it would not last: {reason}"


def grouped(view: SwarmView, plan: GroupPlan) -> SwarmView:
    """The view once this group serves, as far as its members' records go."""
    members = {member.peer_id for member in plan.members[1:]}
    records = (
        replace(record, state=PeerState.IDLE, span=None, group=plan.lead) if record.peer_id in members else record
        for record in view.records
    )
    return replace(view, records=tuple(records))


def _reason(plan: GroupPlan) -> str:
    numbers = f"{plan.speed.block_ms:.3f} ms per block ({_parts(plan)}), {plan.alone_ms:.3f} alone"
    if plan.covers_more:
        return f"{len(plan.members)} members together hold blocks that none can serve alone: {numbers}"
    return f"{len(plan.members)} members are faster: {numbers}"


def _parts(plan: GroupPlan) -> str:
    return f"{plan.speed.compute_ms:.3f} computing, {plan.speed.exchange_ms:.3f} in exchanges at {plan.rtt_ms:.2f} ms"


def _scoring(
    view: SwarmView, fingerprint: str, blocks: int, claims: Sequence[Claim], members: Collection[Member]
) -> Scoring:
    """The common score with every member as a lender of its own: the same before a group, with it, and after it."""
    scoring = scoring_of(claims, blocks, surroundings_in(view, fingerprint))
    known = {claim.lender.peer_id for claim in claims} - {member.peer_id for member in members}
    others = tuple(lender for lender in scoring.lenders if lender.peer_id in known)
    return replace(scoring, lenders=(*others, *map(_lender, sorted(members, key=lambda member: member.peer_id))))


def _lender(member: Member) -> Lender:
    return Lender(member.peer_id, math.floor(member.room + 1e-9), member.block_ms)
