"""Where this peer stands among the others: which span it takes up, and when it leaves it for another.

Carries out what `settle` and `balance` decide: publishes claims, leases and plans, and says when to load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from peerllm.presence import Presence
from peerllm.serving.offer import Offer
from peerllm_swarm import balance, settle
from peerllm_swarm.balancing import Action, Balancing, DropLease, Elsewhere, GiveUp, MoveTo, Pace, Propose, TakeLease
from peerllm_swarm.explanation import PlacementExplanation, explain_placement
from peerllm_swarm.handover import Outage
from peerllm_swarm.placement import Wishes
from peerllm_swarm.records import PeerState, SwarmView
from peerllm_swarm.score import Lender
from peerllm_swarm.settle import Announce, ClaimSpan, LoadSpan, Settling, Timing
from peerllm_swarm.span import BlockSpan
from peerllm_swarm.surroundings import surroundings_in

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at whether sessions run; a look at an unchanged swarm costs nothing."""


SHARE_OF_A_CORE = 0.05
MOST_PAUSE_S = 5.0
"""What watching may take of its owner's machine: a large swarm's view changes all the time."""


Calls = Callable[[SwarmView, bool], Elsewhere | None]
"""Why another model needs this peer more, if one does: all reasons, or (if False) just that somebody waits for it."""


@dataclass(frozen=True)
class Relocation:
    """Serve another span, or another model if `span` is None."""

    span: BlockSpan | None
    beside: bool
    reason: str


class Chooser:
    """One peer's place in one model: `settle` finds it, `watch` keeps an eye on it while it is served."""

    def __init__(
        self,
        presence: Presence,
        offer: Offer,
        lends: tuple[str, ...],
        on_disk: frozenset[int],
        timing: Timing,
        pace: Pace,
        random: Random,
        group_room: float = 0.0,
    ) -> None:
        """`lends` are the fingerprints of all that this machine may serve, `group_room` is as in its record."""
        self._presence = presence
        self._lends = lends
        self._offer = offer
        self._random = random
        self._group_room = group_room
        self._pace = replace(pace, visible_s=timing.visible_s)
        self._me = Lender(presence.peer_id, offer.capacity_blocks)
        self._wishes = Wishes(pinned=offer.pinned, cached=on_disk)
        self._settling = Settling(
            me=self._me,
            fingerprint=offer.fingerprint,
            blocks=offer.spec.blocks,
            epoch=offer.fingerprint,  # the same peers choose the same spans after a restart: they are on disk
            timing=timing,
            wishes=self._wishes,
        )
        self._balancing: Balancing | None = None
        self._taken: BlockSpan | None = None  # by a move for which nothing has to be agreed any more

    async def settle(self) -> BlockSpan:
        """Agree with the other peers on a span, or go on with the move that `watch` has begun."""
        if self._taken is not None:
            return self._taken
        if self._settling.span is not None:
            await self.publish(PeerState.CLAIMED, self._settling.span, claimed_at=time.time())
            self._settling = replace(self._settling, since=time.time())
        seen = 0
        while True:
            view = self._presence.view()
            self._settling, actions = settle.step(self._aware(view), time.time(), view)
            for action in actions:
                match action:
                    case Announce():
                        await self.publish(PeerState.ANNOUNCED, None, plan=(), moving_until=0.0)
                    case ClaimSpan(span):
                        log.info("claimed span=%s", span)
                        await self.publish(PeerState.CLAIMED, span, claimed_at=time.time())
                    case LoadSpan(span):
                        return span
            seen = await self._presence.wait(seen, self._settling.due_at)

    async def watch(
        self,
        span: BlockSpan,
        outage: Outage,
        block_ms: float,
        sessions: Callable[[], int],
        elsewhere: Calls,
    ) -> Relocation:
        """Return when this peer ought to serve something else than `span`.

        Args:
            block_ms: measured, per block and token.
            sessions: how many run here now.
            elsewhere: why another model needs this peer more, if one does.
        """
        self._me = replace(self._me, block_ms=block_ms)
        self._settling = replace(self._settling, me=self._me)
        self._balancing = self._balanced(span, outage)
        self._taken = None
        seen, busy_at = 0, time.time()
        while True:
            begun, now, view = time.monotonic(), time.time(), self._presence.view()
            self._settling, repairs = settle.step(self._settling, now, view)
            for action in repairs:
                if isinstance(action, ClaimSpan):
                    return Relocation(action.span, False, f"serves blocks {action.span} to close a hole")
            relocation = await self._balance(now, view, now - busy_at, elsewhere)
            if relocation is not None:
                return relocation
            await asyncio.sleep(min(MOST_PAUSE_S, (time.monotonic() - begun) / SHARE_OF_A_CORE))
            before, changed = seen, False
            while not changed and time.time() < min(self._settling.due_at, self._balancing.due_at):
                busy_at = time.time() if sessions() else busy_at
                seen = await self._presence.wait(before, time.time() + LOOK_S)
                changed = seen != before

    def stay(self, now: float) -> None:
        """The move that `watch` has begun did not work out."""
        self._taken = None
        if self._balancing is not None:
            self._balancing = self._balancing.moved(self._balancing.span, now)

    def explain(self, view: SwarmView) -> PlacementExplanation:
        """Why the span that is served, or claimed, is the one."""
        span = self._balancing.span if self._balancing is not None else self._settling.span
        return explain_placement(
            view, self._offer.fingerprint, self._offer.spec.blocks, self._me, span, self._wishes, self._balancing
        )

    async def publish(self, state: PeerState, span: BlockSpan | None, **more: Any) -> None:
        """This peer's record, as a lender of blocks of the model."""
        usual = {
            "capacity_blocks": self._offer.capacity_blocks,
            "loaded": 0.0,
            "load_left_s": 0.0,
            "group": "",
            "members": (),
            "group_room": self._group_room,
        }
        await self._presence.publish(
            state=state,
            span=span,
            model=self._offer.spec.name,
            fingerprint=self._offer.fingerprint,
            blocks=self._offer.spec.blocks,
            lends=self._lends,
            **{**usual, **more},
        )

    def _aware(self, view: SwarmView) -> Settling:
        return replace(self._settling, surroundings=surroundings_in(view, self._offer.fingerprint))

    def _balanced(self, span: BlockSpan, outage: Outage) -> Balancing:
        """The state to watch with: the one before the move, or a new one."""
        now = time.time()
        if self._balancing is not None:
            return replace(self._balancing.moved(span, now), me=self._me, outage=outage)
        return Balancing(
            me=self._me,
            fingerprint=self._offer.fingerprint,
            blocks=self._offer.spec.blocks,
            span=span,
            epoch=self._offer.fingerprint,
            since=now,
            pace=self._pace,
            outage=outage,
            wishes=self._wishes,
        )

    async def _balance(self, now: float, view: SwarmView, idle_s: float, elsewhere: Calls) -> Relocation | None:
        """One step of `balance`, on a thread since it may look for a plan."""
        if self._balancing is None:
            raise RuntimeError("watch begins with a state to balance")
        state, chance = self._balancing, self._random.random()

        def step() -> tuple[Balancing, tuple[Action, ...]]:
            needed = elsewhere(view, now >= state.due_at)
            return balance.step(state, now, view, chance, idle_s=idle_s, elsewhere=needed)

        self._balancing, actions = await asyncio.to_thread(step)
        for action in actions:
            match action:
                case TakeLease(until):
                    await self._presence.publish(moving_until=until)
                case DropLease():
                    await self._presence.publish(moving_until=0.0)
                case Propose(plan):
                    steps = () if plan is None else tuple((step.lender.peer_id, step.span) for step in plan.steps)
                    await self._presence.publish(plan=steps)
                case MoveTo(span, beside, _, why):
                    self._taken = span
                    self._settling = replace(self._settling, span=span)
                    return Relocation(span, beside, why)
                case GiveUp(why):
                    return Relocation(None, False, why)
        return None
