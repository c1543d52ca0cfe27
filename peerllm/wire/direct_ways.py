"""Which peers can be reached directly, as far as this one knows, and when to try again those that could not.

Reads no clock itself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from peerllm.wire.direct_links import Way
from peerllm_swarm.span import PeerId

FIRST_PAUSE_S, LAST_PAUSE_S = 30.0, 600.0
"""Between two attempts at a peer whose port does not answer: each may cost a session half a second."""

MAX_PEERS = 4096


@dataclass(frozen=True)
class _Pause:
    until: float
    next_s: float


class DirectWays:
    """Bounded: of too many peers those noted first are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[PeerId, Way] = OrderedDict()
        self._pauses: OrderedDict[PeerId, _Pause] = OrderedDict()

    def kept(self, peer_id: PeerId, now: float) -> Way | None:
        way = self._kept.get(peer_id)
        return way if way is not None and way.lasts(now) else None

    def may_try(self, peer_id: PeerId, now: float) -> bool:
        pause = self._pauses.get(peer_id)
        return pause is None or now >= pause.until

    def keep(self, peer_id: PeerId, way: Way) -> None:
        """It works: what went wrong before is forgiven."""
        self._pauses.pop(peer_id, None)
        self._kept[peer_id] = way
        _bound(self._kept)

    def drop(self, peer_id: PeerId) -> None:
        self._kept.pop(peer_id, None)

    def pause(self, peer_id: PeerId, now: float) -> None:
        """No more attempts for a while, each time for twice as long."""
        self.drop(peer_id)
        before = self._pauses.pop(peer_id, None)
        pause_s = FIRST_PAUSE_S if before is None else before.next_s
        self._pauses[peer_id] = _Pause(now + pause_s, min(2 * pause_s, LAST_PAUSE_S))
        _bound(self._pauses)


def _bound(known: OrderedDict[PeerId, Way] | OrderedDict[PeerId, _Pause]) -> None:
    while len(known) > MAX_PEERS:
        known.popitem(last=False)
