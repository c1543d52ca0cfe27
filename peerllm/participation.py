"""One stay in a swarm, from the link to its end: what this machine asks there, and what it lends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any

from peerllm.config import Config
from peerllm.engine.thread_cap import ThreadCap
from peerllm.findings import Findings
from peerllm.freshness import keep_fresh
from peerllm.generation.asked_model import AskedModels
from peerllm.generation.asker import Asker
from peerllm.generation.chain import ChainTimings
from peerllm.generation.demand import Demand
from peerllm.generation.kept_sessions import KeptSessions
from peerllm.generation.ledger import Ledger
from peerllm.generation.memory_watch import watch_memory
from peerllm.generation.model_wait import ModelWait, Room
from peerllm.generation.read_prompts import ReadPrompts
from peerllm.generation.route_terms import Trusted
from peerllm.generation.router import Router
from peerllm.generation.spot_check import SpotChecks
from peerllm.giving.accounts import Accounts
from peerllm.giving.books import Books
from peerllm.guest import Guest
from peerllm.lending import Lending
from peerllm.lifecycle import Lifecycle
from peerllm.links import LinkMeter
from peerllm.local.schema import ContributionStatus
from peerllm.measured import Measured
from peerllm.model.progress import Progress, ProgressEvent
from peerllm.model.store import ModelStore
from peerllm.reaching import follow_reach, once_reachable
from peerllm.serving.contribution import Contribution, Phase
from peerllm.serving.contributor import Contributor
from peerllm.serving.groups import GroupPace, Groups
from peerllm.serving.loaded_span import LoadEngine
from peerllm.swarm_link import SwarmLink
from peerllm.swarms import Swarms
from peerllm.wire.messages import Sharing, WireDtype
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.records import SwarmView
from peerllm_swarm.settle import INTERNET, LAN, Timing
from peerllm_swarm.span import PeerId

_STATE_OF = {
    Phase.OFF: "idle",
    Phase.CHOOSING: "joining",
    Phase.LOADING: "loading",
    Phase.WARMING: "warming",
    Phase.SERVING: "serving",
    Phase.GROUPED: "serving",
    Phase.DRAINING: "draining",
    Phase.PAUSED: "paused",
}


@dataclass(frozen=True)
class Household:
    """What outlives a stay: the daemon's own."""

    lifecycle: Lifecycle
    store: ModelStore
    models: AskedModels
    swarms: Swarms
    ledger: Ledger
    demand: Demand
    findings: Findings
    load_engine: LoadEngine
    accounts: Accounts
    guest: Guest
    """Whose config counts, with what the owner has chosen since."""
    cap: ThreadCap
    group_pace: GroupPace = GroupPace()  # noqa: RUF009 - frozen


_SHARING = {"off": Sharing.NOBODY, "own": Sharing.ASKER, "members": Sharing.MEMBERS}


class Participation:
    """`asker` and `contributor` of this machine in one swarm; `run` is their life."""

    def __init__(self, link: SwarmLink, household: Household) -> None:
        config = household.guest.config
        self.link = link
        self.measured = Measured(link.presence.peer_id)
        self._config = config
        self._household = household
        self._books = Books(
            link.identity,
            household.accounts,
            swarm=household.swarms.membership.swarm,
            watts=lambda: household.guest.speeds.watts,
        )
        self._checks = _spot_checks(link, self.measured, household.findings, config, self._books)
        self._kept = KeptSessions(keep_s=config.asking.keep_s, at_most=config.asking.kept)
        self.asker = Asker(
            household.models,
            _router(link, self.measured, config, self._books),
            household.ledger,
            household.demand,
            self._checks,
            _model_wait(link, household.demand, config),
            self._kept,
            ReadPrompts(_SHARING[config.asking.prefixes]),
        )
        self.contributor = self._contributor()

    async def run(self) -> None:
        """Take part until cancelled."""
        presence, contributor, household = self.link.presence, self.contributor, self._household
        await presence.publish()
        await household.guest.attach(contributor, self.using)
        if not household.guest.sharing:
            household.lifecycle.enter("idle", "sharing is off")
        async with contextlib.aclosing(self._kept), contextlib.aclosing(self._checks), asyncio.TaskGroup() as group:
            group.create_task(contributor.run())
            group.create_task(presence.refresh(self._measured))
            group.create_task(keep_fresh(presence, contributor.measured))
            meter = LinkMeter(presence, self.link.transport, self.measured, Random(), self.link.reach.unreached)
            group.create_task(meter.run())
            group.create_task(follow_reach(self.link, contributor, self.measured, lambda: household.guest.sharing))
            group.create_task(self._tell_peers())
            group.create_task(household.swarms.keep_fresh(self.link))
            group.create_task(watch_memory(household.models, self._config.asking.keep_alive_s))

    def _measured(self) -> dict[str, Any]:
        """The fields of the record that are published again and again."""
        demand = self._household.demand.per_minute(time.time())
        return {**self.contributor.measured(), **self._household.guest.speeds.published(), "demand": demand}

    def view(self) -> SwarmView:
        return self.link.presence.view()

    def using(self) -> tuple[str, ...]:
        """Which others are served now: names of peers, or ends of their ids."""
        names = {record.peer_id: record.name for record in self.view().records}
        others = self.contributor.askers - {self.link.presence.peer_id}
        return tuple(sorted(names.get(peer) or f"…{peer[-6:]}" for peer in others))

    def status(self) -> ContributionStatus:
        contributor, lent = self.contributor, self._household.guest.config.contribution
        offer, info, now = contributor.offer, contributor.info, contributor.contribution
        return ContributionStatus(
            enabled=now.wanted,
            model=offer.spec.name if offer else lent.model,
            span=str(now.span) if now.span else "",
            blocks=offer.spec.blocks if offer else 0,
            slots_used=contributor.sessions,
            slots_free=info.slots - contributor.sessions if info else 0,
            engine=offer.engine if offer else "",
            dtype=offer.dtype if offer else "",
            memory_bytes=offer.memory_bytes if offer else 0,
            decode_ms=self.link.presence.record.decode_ms,
            weights_bytes_downloaded=contributor.downloaded_bytes,
            reason=now.reason,
            in_group=now.phase is Phase.GROUPED,
            members=contributor.members,
        )

    def _contributor(self) -> Contributor:
        presence, household = self.link.presence, self._household
        progress = self._download_progress(asyncio.get_running_loop())
        lending = Lending(
            household.store,
            lambda: household.guest.config,
            presence.peer_id,
            lambda: presence.record.decode_ms,
            progress,
            left_over=household.guest.left_over,
        )
        return Contributor(
            once_reachable(self.link, lending.prepare, partial(household.lifecycle.enter, "joining")),
            presence,
            self.link.transport,
            self._contribution_changed,
            progress,
            timing=self._timing,
            elsewhere=lending.elsewhere,
            drain_s=self._config.timings.drain_s,
            load_engine=household.load_engine,
            books=self._books,
            groups=self._groups(progress),
        )

    def _groups(self, progress: Progress) -> Groups:
        lent = self._config.contribution
        return Groups(
            self.link.presence,
            self.link.transport,
            self.measured.rtt_ms,
            progress,
            form=SyncForm(lent.group_sync) if lent.groups == "auto" else None,
            cap=self._household.cap,
            pace=self._household.group_pace,
        )

    def _timing(self) -> Timing:
        """How soon records are seen: by multicast, or through the DHT where the swarm reaches beyond this network."""
        return LAN if self._config.swarm.mdns and not self.link.enters_from_afar else INTERNET

    def _contribution_changed(self, now: Contribution) -> None:
        span = f"blocks {now.span}" if now.span else ""
        self._household.lifecycle.enter(_STATE_OF[now.phase], now.reason or span)
        self._household.lifecycle.tell("contribution", asdict(self.status()))

    def _download_progress(self, loop: asyncio.AbstractEventLoop) -> Progress:
        """Progress reports arrive on the thread that downloads; the lifecycle belongs to the loop."""

        def show(event: ProgressEvent) -> None:
            fraction = event.done_bytes / event.total_bytes if event.total_bytes else None
            name = "downloading" if event.fetching else "loading"
            self._household.lifecycle.enter(name, event.what, fraction)

        def report(event: ProgressEvent) -> None:
            loop.call_soon_threadsafe(show, event)

        return report

    async def _tell_peers(self) -> None:
        """An event for every change of the view."""
        seen = 0
        while True:
            seen = await self.link.presence.wait(seen, time.time() + 60.0)
            self._household.lifecycle.tell("peers", {"peers": len(self.view().records)})


def _spot_checks(link: SwarmLink, measured: Measured, findings: Findings, config: Config, books: Books) -> SpotChecks:
    return SpotChecks(
        link.presence,
        link.transport,
        measured,
        findings,
        probability=config.asking.spot_check,
        wire_dtype=_wire_dtype(config),
        rng=Random(),
        books=books,
    )


def _model_wait(link: SwarmLink, demand: Demand, config: Config) -> ModelWait:
    room = Room(config.contribution.slots, config.contribution.context_tokens)
    return ModelWait(link.presence, demand, room, wait_s=config.asking.load_wait_s)


def _router(link: SwarmLink, measured: Measured, config: Config, books: Books) -> Router:
    own = frozenset(map(PeerId, config.asking.own)) | {link.presence.peer_id}
    return Router(
        link.presence,
        link.transport,
        measured,
        ChainTimings(config.timings.open_s, config.timings.step_s, config.timings.prefill_s),
        _wire_dtype(config),
        repair_s=config.asking.repair_s,
        trusted=Trusted(own, frozenset(map(PeerId, config.asking.friends))),
        books=books,
    )


def _wire_dtype(config: Config) -> WireDtype:
    return WireDtype[config.asking.wire_dtype.upper()]
