"""The node: what the local API asks for, put together from the swarm link, the contribution and the asker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peerllm
from peerllm.api.node_services import ModelCard
from peerllm.config import Config
from peerllm.config_sources import LoadedConfig
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import ModelLoading, PeerllmError, UnknownModel
from peerllm.findings import Findings
from peerllm.generation.answer import AnswerEvent
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.asked_model import AskedModels
from peerllm.generation.asker import Asker
from peerllm.generation.demand import Demand
from peerllm.generation.drafting.drafts import DraftSettings
from peerllm.generation.embedding import EmbeddingRequest, Embeddings
from peerllm.generation.ledger import Ledger
from peerllm.giving.accounts import Accounts
from peerllm.guest import Guest
from peerllm.last_lines import last_lines
from peerllm.lifecycle import Lifecycle
from peerllm.local.accounts import RequestAccount
from peerllm.local.placement import PlacementAccount
from peerllm.local.records import SwarmRecords
from peerllm.local.schema import ApiStatus, ContributionStatus, DirectoryState, Event, PeerInfo, Status, SwarmInfo
from peerllm.locations import Locations
from peerllm.model.store import ModelStore
from peerllm.model_cards import engines_of, model_cards
from peerllm.observed import placement_account, swarm_records
from peerllm.participation import Household, Participation
from peerllm.reaching import network_status, outdated
from peerllm.seen import coverage, peer_rows
from peerllm.serving.loaded_span import LoadEngine, load_engine
from peerllm.serving.readers import MachineReader
from peerllm.swarm_link import SwarmLink, open_swarm_link
from peerllm.swarms import Swarms
from peerllm_swarm.errors import SwarmError
from peerllm_swarm.host_options import HostOptions
from peerllm_swarm.invitation_token import is_token
from peerllm_swarm.multiaddress import Multiaddress
from peerllm_swarm.records import SwarmView

log = logging.getLogger(__name__)

RETRY_LINK_S = 5.0
"""Before the link to the swarm is opened again when its libp2p host could not start."""

LEAVE_S = 5.0
"""Beyond `timings.drain_s`: to unload a span and say goodbye."""


class Node:
    """`NodeServices` of the running daemon."""

    def __init__(self, loaded: LoadedConfig, locations: Locations, load_engine: LoadEngine | None = None) -> None:
        """`load_engine` makes the engine of every span served, if not the usual one is to."""
        self._config = config = loaded.config
        self._locations = locations
        self._since = time.time()
        self._api = ApiStatus("", 0)
        self._lifecycle = Lifecycle()
        self.swarms = Swarms(config.swarm, locations)
        self._household = self._keep_house(loaded, load_engine)
        self.guest = self._household.guest
        self._link: SwarmLink | None = None
        self._part: Participation | None = None
        self._host_options: HostOptions | None = None  # of the link that comes next, once one has shown what it needs
        self._stopping = asyncio.Event()
        self._answers = 0
        self._no_answers = asyncio.Event()
        self._no_answers.set()

    def _keep_house(self, loaded: LoadedConfig, given_engine: LoadEngine | None) -> Household:
        config, cap = loaded.config, ThreadCap()
        models_dir = _models_dir(config, self._locations)
        store = ModelStore(models_dir, lan_only=config.swarm.lan_only)
        accounts = Accounts(self._locations.ledger_file)
        make_reader = partial(MachineReader, models_dir=models_dir, programs=())
        return Household(
            lifecycle=self._lifecycle,
            store=store,
            models=AskedModels(
                store,
                threads=config.engine.threads,
                wait_s=config.asking.load_wait_s,
                repack=config.engine.repack,
                drafts=DraftSettings(
                    enabled=config.speculation.mode == "auto",
                    model=config.speculation.draft_model,
                    max_length=config.speculation.max_draft,
                ),
            ),
            swarms=self.swarms,
            ledger=Ledger(),
            demand=Demand(config.asking.keep_alive_s),
            findings=Findings(self._locations.findings_file),
            load_engine=given_engine or partial(load_engine, cap=cap),
            accounts=accounts,
            guest=Guest(loaded, self._locations.choices_file, make_reader, cap, accounts, self._lifecycle.tell),
            cap=cap,
        )

    def listens_on(self, api: ApiStatus) -> None:
        self._api = api

    # The life of the node.

    async def run(self) -> None:
        """Take part in the swarm until asked to stop, then drain."""
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(part) for part in (self._stopping.wait(), self._take_part(), self.guest.run())
        ]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            await self._leave_gracefully()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Free what answers needed; after the API's last answer has ended."""
        await self._household.models.shutdown()
        await asyncio.to_thread(self._household.accounts.close)

    def request_stop(self) -> None:
        """Drain and end; asked a second time, end without draining."""
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self._stopping.set()

    async def _take_part(self) -> None:
        """Open the link to the swarm, and again when it fails or the owner has chosen another swarm."""
        while True:
            self._lifecycle.enter("discovering", "starting the peer-to-peer host")
            try:
                await self.swarms.enter()
                entries = (*self._config.swarm.bootstrap, *self.swarms.joined.addresses)
                async with open_swarm_link(
                    self._config.swarm,
                    self._locations,
                    entries,
                    self.swarms.membership,
                    self.swarms.desk,
                    self.swarms.keep_revocations,
                    self._host_options,
                    self.guest.bandwidth,
                ) as link:
                    await self._until_switched(link, self._serve_and_ask(link))
                if self._host_options not in (None, link.reach.options):
                    continue
            except (SwarmError, PeerllmError) as error:
                log.error("no link to the swarm: %s", error)
                self._lifecycle.enter("error", str(error))
            finally:
                self._link = self._part = None
            await self.swarms.wait_for_switch(RETRY_LINK_S)

    async def _until_switched(self, link: SwarmLink, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends, the owner chooses another swarm, or relays take another part than until now."""
        working, switched = asyncio.create_task(work), asyncio.create_task(self.swarms.wait_for_switch())
        rehosting = asyncio.create_task(outdated(link, self._is_idle))
        try:
            await asyncio.wait((working, switched, rehosting), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            if rehosting.done():
                self._host_options = rehosting.result()
        finally:
            for task in (working, switched, rehosting):
                task.cancel()
            await asyncio.gather(working, switched, rehosting, return_exceptions=True)

    def _is_idle(self) -> bool:
        return not self._answers and not (self._part and self._part.contributor.sessions)

    async def _serve_and_ask(self, link: SwarmLink) -> None:
        self._link = link
        self._part = part = Participation(link, self._household)
        try:
            await part.run()
        finally:
            self.guest.detach()

    async def _leave_gracefully(self) -> None:
        """Let this machine's own answers and those of others end, all within `drain_s`."""
        self._lifecycle.enter("draining", "the daemon stops")
        self.guest.detach()
        draining: list[Awaitable[object]] = [self._no_answers.wait()]
        if self._part is not None:
            draining.append(self._part.contributor.leave())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.timings.drain_s + LEAVE_S):
                await asyncio.gather(*draining)

    # What the API asks.

    def status(self) -> Status:
        record = self._link.presence.record if self._link else None
        return Status(
            version=peerllm.__version__,
            peer_id=record.peer_id if record else "",
            name=platform.node(),
            pid=os.getpid(),
            since=self._since,
            swarm=self.swarms.name,
            lifecycle=self._lifecycle.state,
            contribution=self._part.status() if self._part else self._no_contribution(),
            api=self._api,
            directories=tuple(
                DirectoryState(part.name, part.up, part.reason, dropped=sum(part.dropped.values()))
                for part in (self._link.directories if self._link else ())
            ),
            port=_port(record.addresses) if record else 0,
            addresses=record.addresses if record else (),
            peers=sum(1 for other in self._view().records if record and other.peer_id != record.peer_id),
            membership=self.swarms.status(),
            network=network_status(self._link),
            speculation=self._household.models.speculation(),
        )

    def peers(self) -> list[PeerInfo]:
        part, house = self._part, self._household
        if part is None:
            return []
        own, engines = part.link.presence.peer_id, engines_of(house.store.known())
        link, standing = part.link, house.findings.standing
        return peer_rows(self._view(), own, part.measured.rtt_ms, link.reach, standing, engines, link.has_socket)

    def swarm(self) -> SwarmInfo:
        swarm_id = self.swarms.membership.swarm
        return SwarmInfo(self.swarms.name, swarm_id, coverage(self._view()), tuple(self.peers()))

    def records(self) -> SwarmRecords:
        if self._part is None:
            return SwarmRecords(time.time())
        return swarm_records(self._view(), self._part.link.presence.peer_id, self._part.measured.asker.latency)

    def models(self) -> list[ModelCard]:
        lent = self.guest.config.contribution
        return model_cards(self._view(), self._household.store.known(), lent, created=int(self._since))

    def events(self) -> AsyncIterator[Event]:
        return self._lifecycle.events()

    async def answer(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
        with self._answering(request.model) as asker:
            async with contextlib.aclosing(asker.answer(request)) as answer:
                async for event in answer:
                    yield event

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        with self._answering(request.model) as asker:
            return await asker.embed(request)

    def placement(self) -> PlacementAccount:
        contributor = self._part.contributor if self._part else None
        if contributor is None:
            return placement_account(None, self._view())
        return placement_account(contributor.explain(), self._view(), contributor.explain_group())

    def requests(self) -> list[RequestAccount]:
        return self._household.ledger.all()

    def request(self, name: str) -> RequestAccount:
        return self._household.ledger.find(name)

    async def log_lines(self, lines: int) -> list[str]:
        return await asyncio.to_thread(last_lines, self._locations.log_file, lines)

    async def join(self, way: str) -> str:
        if is_token(way):
            return (await self.swarms.redeem(way)).name
        if self._link is not None:
            self._link.enter_by(way)
        self.swarms.joined.add(way)
        return self.swarms.name

    async def leave(self) -> str:
        if self._link is not None:
            await self._link.forget_entries()
        return await self.swarms.leave()

    async def stop(self) -> None:
        if not self._stopping.is_set():
            self.request_stop()

    @contextlib.contextmanager
    def _answering(self, model: str) -> Iterator[Asker]:
        """Raises `ModelLoading` while nothing can be asked."""
        state = self._lifecycle.state
        if self._part is None or self._stopping.is_set():
            reason = f"this daemon is not answering now: {state.name}, {state.reason}"
            raise ModelLoading(reason, fraction=state.progress)
        self._answers += 1
        self._no_answers.clear()
        try:
            yield self._part.asker
        except UnknownModel as unknown:
            if all(record.model != model for record in self._view().records):
                raise
            way = "ask for it by its path here, or have it served by its hf: reference"
            raise UnknownModel(f"peers serve {model}, but its files are not known on this machine: {way}") from unknown
        finally:
            self._answers -= 1
            if not self._answers:
                self._no_answers.set()

    def _view(self) -> SwarmView:
        return self._link.presence.view() if self._link else SwarmView(time.time(), ())

    def _no_contribution(self) -> ContributionStatus:
        return ContributionStatus(enabled=self.guest.sharing, reason="not in the swarm yet")


def _models_dir(config: Config, locations: Locations) -> Path:
    return Path(config.models.dir).expanduser() if config.models.dir else locations.models_dir


def _port(addresses: tuple[str, ...]) -> int:
    """The TCP port that this machine itself listens on: a router that passes one on may show another outside."""
    direct = [parsed for parsed in map(Multiaddress.parse, addresses) if not parsed.relay]
    nearest = min(direct, key=lambda address: (not address.is_loopback, address.protocol != "ip4"), default=None)
    return nearest.port if nearest is not None else 0
