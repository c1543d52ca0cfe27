"""A view of the swarm as people see it: rows of peers, and how much of each model is covered. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from peerllm.local.schema import ModelCoverage, PeerInfo
from peerllm_swarm.clock_skew import Clocks
from peerllm_swarm.reachability import Standing
from peerllm_swarm.records import PeerRecord, SwarmView
from peerllm_swarm.span import PeerId, uncovered


class Ways(Protocol):
    """What is known of the ways to peers, and of their clocks."""

    @property
    def standing(self) -> Standing: ...

    @property
    def clocks(self) -> Clocks: ...

    def way_to(self, peer_id: PeerId) -> tuple[str, str]: ...


def peer_rows(
    view: SwarmView,
    me: PeerId,
    rtt_ms: Callable[[PeerId], float | None],
    ways: Ways,
    standing: Callable[[PeerId], tuple[str, str]],
    engines: Mapping[str, str],
    has_socket: Callable[[PeerId], bool],
) -> list[PeerInfo]:
    """This peer first, the others by span.

    Args:
        standing: what spot checks have found, as in `PeerInfo.trust`.
        engines: by fingerprint, which records carry instead of the engine that it stands for.
    """
    order = sorted(view.records, key=lambda r: (r.peer_id != me, r.model, r.span.start if r.span else -1, r.peer_id))
    off = ways.clocks.off(view.at)
    rows: list[PeerInfo] = []
    for record in order:
        trust, reason = standing(record.peer_id)
        ahead_s = off.get(record.peer_id, 0.0)
        row = replace(_with_way(_row(record, me, rtt_ms), ways), by_socket=has_socket(record.peer_id))
        engine = engines.get(record.fingerprint, "")
        rows.append(replace(row, clock_ahead_s=ahead_s, trust=trust, trust_reason=reason, engine=engine))
    return rows


def coverage(view: SwarmView) -> tuple[ModelCoverage, ...]:
    """Per fingerprint that anybody serves or is about to: peers with other numbers cannot stand in for one another."""
    by_fingerprint: dict[str, list[PeerRecord]] = defaultdict(list)
    for record in view.records:
        if record.fingerprint:
            by_fingerprint[record.fingerprint].append(record)
    return tuple(_covered(records) for _, records in sorted(by_fingerprint.items()))


def _with_way(row: PeerInfo, ways: Ways) -> PeerInfo:
    own = ways.standing
    reach, reason = (str(own.reach), own.reason) if row.you else ways.way_to(PeerId(row.peer_id))
    return replace(row, reach=reach, reach_reason=reason)


def _covered(records: list[PeerRecord]) -> ModelCoverage:
    first = records[0]
    spans = [record.span for record in records if record.serves(first.fingerprint) and record.span]
    gaps = uncovered(spans, first.blocks) if first.blocks else []
    return ModelCoverage(
        model=first.model,
        blocks=first.blocks,
        covered=first.blocks - sum(len(gap) for gap in gaps),
        gaps=tuple(str(gap) for gap in gaps),
        peers=len(spans),
    )


def _row(record: PeerRecord, me: PeerId, rtt_ms: Callable[[PeerId], float | None]) -> PeerInfo:
    speed = {mode: measured for mode, *measured in record.speeds}.get(record.power, [0.0, 0.0])
    return PeerInfo(
        peer_id=record.peer_id,
        name=record.name,
        state=record.state,
        model=record.model,
        span=str(record.span) if record.span else "",
        blocks=record.blocks,
        decode_ms=record.decode_ms,
        rtt_ms=0.0 if record.peer_id == me else rtt_ms(record.peer_id),
        addresses=len(record.addresses),
        you=record.peer_id == me,
        slots_free=record.slots_free,
        version=record.software,
        queue_ms=record.queue_ms,
        power=record.power,
        tokens_per_s=speed[0],
        watts=speed[1],
        group=record.group,
        members=record.members,
    )
