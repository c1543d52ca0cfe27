"""Who gets a free slot of a span: a decision over what each asker holds and who else has asked for one.

The machine's own answers go first. Of the others whoever holds fewest does, and among those whoever has asked first.
So an asker may fill a span that nobody else wants, and loses what it gives back to the others once they want in.

A value and the ways to a next one. Times are of a clock that never goes back, in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from peerllm_swarm.span import PeerId

T = TypeVar("T")

SHORTEST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0
UNKNOWN_RETRY_S = 1.0
"""Where no running session has shown yet how fast it is."""

GRACE_S = 1.0
"""Beyond the time it was told: an asker that has not asked again by then wants no slot any more."""

MAX_WANTS = 1024


@dataclass(frozen=True, slots=True)
class Want:
    """An asker that was refused: since when it asks, and until when it is expected to ask again."""

    since: float
    until: float


@dataclass(frozen=True)
class Waiting:
    """The askers that want in, by peer id."""

    wants: Mapping[PeerId, Want] = field(default_factory=dict[PeerId, Want])

    def refused(self, asker: PeerId, retry_after_s: float, now: float) -> Waiting:
        """It was told to ask again; forgets who has not."""
        known = {peer: want for peer, want in self.wants.items() if want.until >= now}
        if asker not in known and len(known) >= MAX_WANTS:
            return replace(self, wants=known)
        since = known[asker].since if asker in known else now
        return replace(self, wants={**known, asker: Want(since, now + retry_after_s + GRACE_S)})

    def admitted(self, asker: PeerId) -> Waiting:
        """It got what it wanted."""
        if asker not in self.wants:
            return self
        return replace(self, wants={peer: want for peer, want in self.wants.items() if peer != asker})


def retry_after_s(
    asker: PeerId,
    held: Mapping[PeerId, int],
    waiting: Waiting,
    free: int,
    left_s: Sequence[float],
    now: float,
    *,
    own: PeerId | None = None,
) -> float | None:
    """None if the asker may take a slot now, else the seconds after which there may be one for it.

    Args:
        held: sessions of each asker that run here; those with none may be missing.
        waiting: who was refused; `asker` itself may be among them.
        free: slots.
        left_s: of the sessions that run, when each is expected to have ended, as far as that is known.
        own: the machine that lends the span, if it asks as well.
    """
    ahead = _ahead(asker, held, waiting, now, own)
    if ahead < free:
        return None
    ends = sorted(left_s)
    needed = ahead - free  # of the ends to come, this one makes room for the asker
    expected_s = ends[needed] if needed < len(ends) else ends[-1] if ends else UNKNOWN_RETRY_S
    return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, expected_s))


def first_to_go(resting: Mapping[T, PeerId]) -> T:
    """The session that loses its slot: of the askers with the most at rest, the one that has rested longest.

    Args:
        resting: the asker of each session, in the order in which they came to rest.
    """
    counts = Counter(resting.values())
    most = max(counts.values())
    return next(session for session, asker in resting.items() if counts[asker] == most)


def _ahead(asker: PeerId, held: Mapping[PeerId, int], waiting: Waiting, now: float, own: PeerId | None) -> int:
    """How many others are to have a slot first."""
    want = waiting.wants.get(asker)
    since = want.since if want is not None and want.until >= now else now
    mine = (asker != own, held.get(asker, 0), since)
    others = ((peer, want) for peer, want in waiting.wants.items() if peer != asker and want.until >= now)
    return sum(1 for peer, want in others if (peer != own, held.get(peer, 0), want.since) < mine)
