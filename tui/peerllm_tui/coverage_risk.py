"""Which blocks nobody serves, and which would be lost with one peer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from peerllm.local.inert_text import counted, listed
from peerllm.local.schema import PeerInfo
from peerllm_tui.served_models import ServedModel, named, serves, span_of, span_text

_MOST_SPANS = 3


@dataclass(frozen=True)
class Stretch:
    """Blocks that the same peers serve; neighbours differ in their peers."""

    span: range
    peers: tuple[PeerInfo, ...]


@dataclass(frozen=True)
class CoverageRisk:
    """`holes` are served by nobody, `alone` by one peer only, both in order of blocks.

    `spare` is how many peers may leave, whichever they are, before a block is lost; 0 if one departure is enough or
    the model has holes already.
    """

    holes: tuple[range, ...]
    alone: tuple[Stretch, ...]
    spare: int


def stretches(model: ServedModel) -> tuple[Stretch, ...]:
    """The whole model, cut wherever a serving peer's span begins or ends."""
    serving = [peer for peer in model.peers if serves(peer)]
    spans = [span_of(peer) for peer in serving]
    borders = sorted({0, model.blocks, *(span.start for span in spans), *(span.stop for span in spans)})
    return tuple(
        Stretch(range(start, stop), tuple(peer for peer, span in zip(serving, spans, strict=True) if start in span))
        for start, stop in pairwise(borders)
    )


def coverage_risk(model: ServedModel) -> CoverageRisk:
    """What the serving peers of a model leave open, from this machine's view."""
    cut = stretches(model)
    return CoverageRisk(
        holes=tuple(stretch.span for stretch in cut if not stretch.peers),
        alone=tuple(stretch for stretch in cut if len(stretch.peers) == 1),
        spare=max(0, min((len(stretch.peers) for stretch in cut), default=0) - 1),
    )


def risk_text(model: ServedModel) -> str:
    """One sentence for people."""
    risk = coverage_risk(model)
    if risk.holes:
        missing = listed([span_text(hole) for hole in risk.holes], _MOST_SPANS)
        return f"nobody serves blocks {missing}: it cannot be asked until somebody does"
    if risk.alone:
        lost = [f"{span_text(stretch.span)} ({_who(stretch.peers[0])})" for stretch in risk.alone]
        return f"one departure from breaking at blocks {listed(lost, _MOST_SPANS)}"
    return f"no block is lost if any {counted(risk.spare, 'peer')} should leave"


def _who(peer: PeerInfo) -> str:
    return "this machine" if peer.you else named(peer)
