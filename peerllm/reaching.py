"""What this daemon does about how others reach it: waits before it announces blocks, and says how it stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from peerllm.local.schema import NetworkStatus
from peerllm.measured import Measured
from peerllm.serving.contribution import Phase
from peerllm.serving.contributor import Contributor, Prepare
from peerllm.serving.offer import Prepared
from peerllm.swarm_link import SwarmLink
from peerllm_swarm.host_options import HostOptions
from peerllm_swarm.records import SwarmView

log = logging.getLogger(__name__)

LOOK_S = 1.0
_ANNOUNCED = (Phase.LOADING, Phase.WARMING, Phase.SERVING)


def once_reachable(link: SwarmLink, prepare: Prepare, waiting: Callable[[str], None]) -> Prepare:
    """Like `prepare`, but not before this peer may announce blocks; `waiting` is told why not yet."""

    async def prepared(_: SwarmView) -> Prepared:
        while not link.reach.standing.may_announce:
            waiting(link.reach.standing.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await link.reach.may_announce()
        return await prepare(link.presence.view())

    return prepared


async def follow_reach(
    link: SwarmLink, contributor: Contributor, measured: Measured, sharing: Callable[[], bool]
) -> None:
    """Publish where this peer is reached now, and stop serving while nobody gets there; runs until cancelled.

    `sharing` is whether its owner lends it at that moment.
    """
    link.reach.rtt_ms = measured.rtt_ms
    seen, addresses, stopped = 0, link.presence.record.addresses, False
    while True:
        seen = await link.reach.changed.wait(seen)
        measured.note_direct(link.reach.direct)
        now = await link.reach.addresses()
        if set(now) != set(addresses):
            addresses = now
            await link.presence.publish()
        standing = link.reach.standing
        if not standing.may_announce and contributor.contribution.phase in _ANNOUNCED:
            log.warning("not serving any more: %s", standing.reason)
            contributor.switch(False, standing.reason)
            stopped = True
        elif standing.may_announce and stopped:
            stopped = False
            if sharing():
                contributor.switch(True)


async def outdated(link: SwarmLink, is_idle: Callable[[], bool]) -> HostOptions:
    """How the libp2p host should run instead, as soon as it should and nobody would notice that it starts anew."""
    while True:
        wanted = link.reach.wanted()
        if wanted != link.reach.options and is_idle():
            return wanted
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await link.reach.changed.wait(link.reach.changed.count)


def network_status(link: SwarmLink | None) -> NetworkStatus:
    if link is None:
        return NetworkStatus()
    reach = link.reach
    return NetworkStatus(
        reach=reach.standing.reach,
        reason=reach.standing.reason,
        relays=reach.relays,
        relaying=reach.options.relaying.value,
        lan_only=reach.options.lan_only,
        clock=reach.clocks.problem(time.time()),
        direct_port=link.direct_port,
    )
