"""Records to announce in tests."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from peerllm_swarm.identity import Identity
from peerllm_swarm.records import RECORD_LIFETIME_S, PeerRecord, PeerState
from peerllm_swarm.span import BlockSpan

SWARM = "0123456789abcdef"


def sample_record(identity: Identity, sequence: int = 1, **changes: Any) -> PeerRecord:
    """A record as a serving peer has it, issued now, for `lifetime_s`."""
    now = time.time()
    lifetime_s = changes.pop("lifetime_s", RECORD_LIFETIME_S)
    record = PeerRecord(
        peer_id=identity.peer_id,
        swarm=SWARM,
        sequence=sequence,
        issued_at=now,
        expires_at=now + lifetime_s,
        state=PeerState.ONLINE,
        name="Schreibtisch",
        software="0.1.0",
        addresses=("/ip4/192.168.0.2/tcp/7338", "/ip6/fd00::2/tcp/7338", "/ip4/127.0.0.1/tcp/7338"),
        model="smollm2-135m",
        fingerprint="f" * 64,
        blocks=30,
        span=BlockSpan(0, 12),
        capacity_blocks=12,
        decode_ms=0.75,
        prefill_tps=900.0,
        slots_free=3,
        cache_tokens_left=8192,
        queue_ms=1.5,
        free_entry=True,
        claimed_at=now,
        rtt_ms=((identity.peer_id, 0.5),),
        moving_until=now + 20,
        plan=((identity.peer_id, BlockSpan(12, 24)),),
        demand=(("smollm2-135m", 0.5),),
        lends=("f" * 16, "e" * 16),
        loaded=0.5,
        load_left_s=12.0,
        power="turbo",
        speeds=(("eco", 20.5, 11.0), ("turbo", 31.0, 0.0)),
    )
    return replace(record, **changes)


def largest_record(identity: Identity, sequence: int = 1) -> PeerRecord:
    """A record with every field as long as it may be."""
    longest = "/dns4/" + "a" * 58 + "." + "b" * 53 + "/tcp/65535"
    return sample_record(
        identity,
        sequence,
        name="n" * 128,
        software="s" * 128,
        model="m" * 128,
        fingerprint="f" * 128,
        addresses=(longest,) * 8,
        rtt_ms=((identity.peer_id, 123456.789),) * 16,
        blocks=4096,
        span=BlockSpan(4095, 4096),
        plan=((identity.peer_id, BlockSpan(4095, 4096)),) * 10,
        demand=(("m" * 128, 123456.789),) * 4,
        lends=("f" * 16,) * 4,
        power="m" * 8,
        speeds=(("m" * 8, 123456.789, 123456.789),) * 2,
        group_room=4096.5,
    )
