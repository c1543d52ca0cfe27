"""A node that sees a swarm of several homes: two models, every state of a peer, and what can be said of one."""

from __future__ import annotations

import time
from dataclasses import replace

from peerllm.local.placement import PlacementAccount, SpanCandidate
from peerllm.local.records import SeenRecord, SwarmRecords
from peerllm.local.schema import (
    ContributionStatus,
    LifecycleState,
    MembershipStatus,
    NetworkStatus,
    PeerInfo,
    Status,
    SwarmInfo,
)
from tests.support.whole_model_node import WholeModelNode

MODEL = "smollm2-135m"
OTHER_MODEL = "qwen2.5-0.5b"

DESKTOP = PeerInfo(
    peer_id="12D3KooWDesktop",
    name="desktop",
    state="online",
    model=MODEL,
    span="0:12",
    blocks=30,
    decode_ms=2.0,
    rtt_ms=0.0,
    you=True,
    reach="direct",
    slots_free=4,
    engine="llama",
)
ATTIC = replace(
    DESKTOP, peer_id="12D3KooWAttic", name="attic", you=False, span="12:22", decode_ms=2.6, rtt_ms=1.2, slots_free=3
)
CELLAR = replace(
    ATTIC,
    peer_id="12D3KooWCellar",
    name="cellar",
    span="18:30",
    decode_ms=3.1,
    rtt_ms=7.8,
    slots_free=2,
    reach="relayed",
    reach_reason="its router lets nobody in",
)
GARAGE = replace(ATTIC, peer_id="12D3KooWGarage", name="garage", span="20:30", decode_ms=5.0, rtt_ms=3.0)
KITCHEN = replace(
    ATTIC, peer_id="12D3KooWKitchen", name="kitchen", state="loading", span="0:8", decode_ms=0.0, rtt_ms=None
)
STUDY = replace(ATTIC, peer_id="12D3KooWStudy", name="study-pc", state="draining", span="4:12")
STRANGER = replace(
    ATTIC,
    peer_id="12D3KooWStranger",
    name="stranger",
    span="8:18",
    rtt_ms=41.0,
    trust="quarantined",
    trust_reason="answered otherwise than two others (blocks 8:12); not asked for another 23 h",
)
PHONE = PeerInfo("12D3KooWPhone", "phone", "idle", rtt_ms=22.5, reach="direct")
TOWER = replace(
    ATTIC, peer_id="12D3KooWTower", name="tower", model=OTHER_MODEL, blocks=24, span="0:24", decode_ms=4.0, rtt_ms=0.9
)

PEERS = (DESKTOP, STUDY, KITCHEN, STRANGER, ATTIC, CELLAR, GARAGE, TOWER, PHONE)


class SampleNode(WholeModelNode):
    """Its view is these peers, or those that a test puts in their place."""

    def __init__(self, *peers: PeerInfo) -> None:
        super().__init__(None)
        self.guest.now = replace(self.guest.now, consented=True)
        self.seen = list(peers or PEERS)

    def peers(self) -> list[PeerInfo]:
        return self.seen

    def swarm(self) -> SwarmInfo:
        return SwarmInfo("home", "5" * 16, (), tuple(self.seen))

    def records(self) -> SwarmRecords:
        return SwarmRecords(
            time.time(),
            tuple(
                SeenRecord(peer.peer_id, peer.name, peer.state, model=peer.model, fingerprint=peer.model)
                for peer in self.seen
            ),
        )

    def placement(self) -> PlacementAccount:
        if not self.sharing:
            return super().placement()
        return PlacementAccount(
            MODEL,
            "moving to 12:24 would save 0.4 %, less than the 5 % that a move must bring",
            blocks=30,
            capacity_blocks=12,
            block_ms=2.0,
            present=SpanCandidate("0:12", 0, 1.25, 0),
            alone=("0:12",),
            next_check_s=40.0,
        )

    def status(self) -> Status:
        lent = ContributionStatus(
            True, MODEL, "0:12", 30, 1, 3, "llama", "q4_1", 212_000_000, 2.0, weights_bytes_downloaded=39_300_000
        )
        return replace(
            super().status(),
            name="desktop",
            peers=len(self.seen) - 1,
            lifecycle=LifecycleState("serving", time.time(), None, "blocks 0:12")
            if self.sharing
            else LifecycleState("idle", time.time(), None, "sharing is off"),
            contribution=lent if self.sharing else ContributionStatus(False, MODEL),
            membership=MembershipStatus(made_here=True, may_issue=True, expires_at=1_900_000_000),
            network=NetworkStatus("direct", "two peers have called back"),
        )
