"""This peer's own records in the swarm: signed anew, refreshed in time, withdrawn at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import peerllm
from peerllm_swarm.directory import Directory
from peerllm_swarm.errors import SwarmError
from peerllm_swarm.records import RECORD_LIFETIME_S, REFRESH_S, PeerRecord, PeerState, SwarmView
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

Addresses = Callable[[], Awaitable[tuple[str, ...]]]


class Presence:
    """What this peer says of itself, and what it sees of the others."""

    def __init__(self, directory: Directory, peer_id: PeerId, swarm: str, addresses: Addresses) -> None:
        self._directory = directory
        self._addresses = addresses
        self._record = PeerRecord(
            peer_id=peer_id,
            swarm=swarm,
            sequence=0,
            issued_at=0.0,
            expires_at=0.0,
            state=PeerState.IDLE,
            name=platform.node()[:64] or "unnamed",
            software=peerllm.__version__,
            addresses=(),
        )
        self._publishing = asyncio.Lock()
        self._disbelieved: dict[PeerId, int] = {}  # the last sequence of peers that are gone

    @property
    def peer_id(self) -> PeerId:
        return self._record.peer_id

    @property
    def record(self) -> PeerRecord:
        """As last published."""
        return self._record

    def view(self) -> SwarmView:
        """Everybody's unexpired records, this peer's as it last published it."""
        now = time.time()
        own = (self._record,) if self._record.expires_at > now else ()
        return SwarmView(now, self.others() + own)

    def others(self) -> tuple[PeerRecord, ...]:
        """Everybody's unexpired records but this peer's, and those that are not believed."""
        return tuple(
            record
            for record in self._directory.view()
            if record.peer_id != self.peer_id and record.sequence > self._disbelieved.get(record.peer_id, -1)
        )

    def disbelieve(self, record: PeerRecord) -> None:
        """Its owner is gone: out of view with it, until there is a newer one."""
        here = {other.peer_id for other in self._directory.view()}
        self._disbelieved = {peer: last for peer, last in self._disbelieved.items() if peer in here}
        self._disbelieved[record.peer_id] = record.sequence
        self._directory.changed.notify()

    async def wait(self, seen: int, until: float) -> int:
        """Return when the view has changed since `seen` or at the Unix time `until`; what has been seen by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.time())):
                return await self._directory.changed.wait(seen)
        return self._directory.changed.count

    async def publish(self, **changes: Any) -> None:
        """Change fields of the record and announce it; a directory that is down is retried by itself."""
        async with self._publishing:
            now = time.time()
            changed = replace(
                self._record,
                sequence=max(self._record.sequence + 1, int(now * 1000)),
                issued_at=now,
                expires_at=now + RECORD_LIFETIME_S,
                addresses=await self._addresses(),
                **changes,
            )
            news = changed.demand != self._record.demand
            self._record = changed
            if news:  # of this peer's owner, which concerns this peer as much as others
                self._directory.changed.notify()
            try:
                await self._directory.announce(changed)
            except SwarmError as error:
                log.warning("record not announced: %s", error)

    async def publish_idle(self, *, lends: tuple[str, ...]) -> None:
        """Say that this peer serves nothing; `lends` are the fingerprints of what it may serve all the same."""
        await self.publish(
            state=PeerState.IDLE,
            span=None,
            model="",
            fingerprint="",
            blocks=0,
            capacity_blocks=0,
            slots_free=0,
            lends=lends,
            loaded=0.0,
            load_left_s=0.0,
            moving_until=0.0,
            plan=(),
            group="",
            members=(),
            group_room=0.0,
        )

    async def refresh(self, measure: Callable[[], dict[str, Any]]) -> None:
        """Publish again every `REFRESH_S`, with what `measure` says of load and room by then; runs until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.publish(**measure())

    async def withdraw(self) -> None:
        """Tell the swarm that this peer is leaving; whoever misses it sees the record expire."""
        with contextlib.suppress(SwarmError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._directory.withdraw(self._record)
