"""A view of the swarm with everything that is known of it here, as the local API hands it out. Pure."""

from __future__ import annotations

from peerllm.local.placement import PlacementAccount, SpanCandidate, SpanHolder
from peerllm.local.records import RoundTrip, SeenRecord, SwarmRecords
from peerllm_swarm.explanation import Candidate, PlacementExplanation
from peerllm_swarm.latency import Latency
from peerllm_swarm.records import PeerRecord, SwarmView
from peerllm_swarm.span import PeerId


def swarm_records(view: SwarmView, me: PeerId, latency: Latency) -> SwarmRecords:
    """Every record of the view beside what was measured from here."""
    return SwarmRecords(view.at, tuple(_seen(record, view.at, me, latency) for record in view.records))


def _seen(record: PeerRecord, now: float, me: PeerId, latency: Latency) -> SeenRecord:
    mine = record.peer_id == me
    return SeenRecord(
        peer_id=record.peer_id,
        name=record.name,
        state=record.state,
        you=mine,
        model=record.model,
        fingerprint=record.fingerprint,
        blocks=record.blocks,
        span=str(record.span) if record.span else "",
        capacity_blocks=record.capacity_blocks,
        decode_ms=record.decode_ms,
        prefill_tps=record.prefill_tps,
        slots_free=record.slots_free,
        cache_tokens_left=record.cache_tokens_left,
        queue_ms=record.queue_ms,
        free_entry=record.free_entry,
        rtt_ms=tuple(RoundTrip(peer, rtt_ms) for peer, rtt_ms in record.rtt_ms),
        measured_rtt_ms=0.0 if mine else latency.rtt_ms(record.peer_id, now),
        measured_block_ms=latency.block_ms(record.peer_id, now),
        group=record.group,
        members=record.members,
        group_room=record.group_room,
    )


def placement_account(explanation: PlacementExplanation | None, view: SwarmView, group: str = "") -> PlacementAccount:
    """The explanation with names of peers and of the model; `group` says why it is in one, or is not."""
    if explanation is None:
        why = "this machine lends nothing now; `peerllm share on` lends it"
        return PlacementAccount(model="", why=group or why)
    records = {record.peer_id: record for record in view.of(explanation.fingerprint)}
    return PlacementAccount(
        model=next((record.model for record in records.values()), explanation.fingerprint),
        why=explanation.why,
        blocks=explanation.blocks,
        capacity_blocks=explanation.capacity_blocks,
        block_ms=explanation.block_ms,
        present=None if explanation.present is None else _candidate(explanation.present),
        best=tuple(map(_candidate, explanation.best)),
        others=tuple(
            SpanHolder(
                other.peer_id,
                records[other.peer_id].name if other.peer_id in records else "",
                str(other.span),
                other.tokens_per_s,
            )
            for other in explanation.others
        ),
        alone=tuple(map(str, explanation.alone)),
        missing=tuple(map(str, explanation.missing)),
        next_check_s=explanation.next_check_s,
        group=group,
    )


def _candidate(candidate: Candidate) -> SpanCandidate:
    return SpanCandidate(str(candidate.span), candidate.uncovered, candidate.cost, candidate.to_fetch)
