"""Whole blocks for peers of unequal weight: three ways to split, all with a cap per peer or none."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

from peerllm_swarm.errors import BadInstance, NoPlacement
from peerllm_swarm.planning.quantities import positive


def max_min_split(weights: Sequence[float], caps: Sequence[int], total: int, *, least: int = 0) -> list[int]:
    """The counts of sum `total` for which the least `weight / count` is as large as any integer split can make it.

    With memory as weight this is the most GB per block on the tightest peer, hence the most sessions;
    with speed as weight the highest throughput of the slowest peer. Everybody gets `least`; ties go to the earlier.

    Proof: a bound v on the least quotient allows `floor(weight / v)` blocks each, and handing out blocks
    one by one to the largest `weight / (count + 1)` visits the quotients of all these bounds in falling
    order (the divisor method of D'Hondt), so its last quotient is the largest v whose allowances reach
    the total. What all have at the start changes nothing of it. Compared as fractions: exact.

    Raises:
        NoPlacement: the caps do not reach the total.
    """
    _check(weights, caps, total)
    if total < least * len(weights) or min(caps) < least:
        raise BadInstance(f"{total} blocks cannot be shared by {len(weights)} peers with at least {least} each")
    exact = [Fraction(weight) for weight in weights]
    counts = [least] * len(exact)
    next_quotients = [(-weight / (least + 1), at) for at, weight in enumerate(exact) if caps[at] > least]
    heapq.heapify(next_quotients)
    for _ in range(total - sum(counts)):
        _, at = heapq.heappop(next_quotients)
        counts[at] += 1
        if counts[at] < caps[at]:
            heapq.heappush(next_quotients, (-exact[at] / (counts[at] + 1), at))
    return counts


def water_fill(weights: Sequence[float], caps: Sequence[int], total: int) -> list[int]:
    """Counts as near as whole blocks can be to `min(cap, level x weight)`, with the level that gives `total`.

    Rounded down, then the largest remainders get one more; ties go to the earlier peer.
    Source: Parallax (arXiv 2509.26182) inside one pipeline; its 40 bisections find the same level.
    """
    _check(weights, caps, total)
    level = _water_level(weights, caps, total)
    ideal = [min(Fraction(cap), level * Fraction(weight)) for weight, cap in zip(weights, caps, strict=True)]
    return _rounded(ideal, total)


def proportional_split(weights: Sequence[float], total: int) -> list[int]:
    """Counts in proportion to the weights, by largest remainder, at least one each and no caps.

    Source: exo, `allocate_layers_proportionally` of `placement_utils.py`.
    """
    if total < len(weights):
        raise BadInstance(f"{total} blocks cannot be shared by {len(weights)} peers with at least one each")
    _check(weights, [total] * len(weights), total)
    whole = sum(map(Fraction, weights), Fraction(0))
    counts = _rounded([Fraction(weight) * total / whole for weight in weights], total)
    for at, count in enumerate(counts):
        if count == 0:
            counts[counts.index(max(counts))] -= 1
            counts[at] = 1
    return counts


def _check(weights: Sequence[float], caps: Sequence[int], total: int) -> None:
    if len(weights) != len(caps):
        raise BadInstance(f"{len(weights)} weights do not belong to {len(caps)} caps")
    if total < 1:
        raise BadInstance(f"at least one block must be split, not {total}")
    for weight in weights:
        positive("a weight", weight)
    if min(caps, default=0) < 0:
        raise BadInstance("a cap must be at least 0")
    missing = total - sum(caps)
    if missing > 0:
        raise NoPlacement(f"{missing} of {total} blocks cannot be held by {len(caps)} peers", missing)


def _water_level(weights: Sequence[float], caps: Sequence[int], total: int) -> Fraction:
    """The level at which the peers together hold `total`; peers fill up in the order of cap per weight."""
    by_fullness = sorted(zip(map(Fraction, weights), caps, strict=True), key=lambda peer: peer[1] / peer[0])
    left = Fraction(total)
    weight_left = sum((weight for weight, _ in by_fullness), Fraction(0))
    for weight, cap in by_fullness:
        level = left / weight_left
        if level * weight <= cap:
            return level
        left -= cap
        weight_left -= weight
    return Fraction(0)


def _rounded(ideal: Sequence[Fraction], total: int) -> list[int]:
    counts = [math.floor(share) for share in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda at: (counts[at] - ideal[at], at))
    for at in by_remainder[: total - sum(counts)]:
        counts[at] += 1
    return counts
