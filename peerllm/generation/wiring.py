"""What each hop is told when a session is opened along a route, or goes on along another: functions of the routes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from peerllm.wire.messages import Open, Resume, SessionId, Sharing, WireDtype
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import PeerId

Addresses = Mapping[PeerId, tuple[str, ...]]


@dataclass(frozen=True)
class SessionTerms:
    """What is the same for all hops of a session, as long as it lives."""

    session: SessionId
    tokens: int
    wire_dtype: WireDtype
    sharing: Sharing = Sharing.NOBODY


def neighbours(route: Route, at: int) -> tuple[PeerId | None, PeerId | None]:
    """The hops before and behind the one at that place; None where the asker is."""
    before = route.hops[at - 1].peer_id if at else None
    behind = route.hops[at + 1].peer_id if at + 1 < len(route.hops) else None
    return before, behind


def openings(
    route: Route, new: Collection[Hop], addresses: Addresses, terms: SessionTerms, position: int
) -> Iterator[tuple[Hop, Open]]:
    """How the `new` hops are opened when everybody else already has all rows before `position`."""
    for at, hop in enumerate(route.hops):
        if hop not in new:
            continue
        before, behind = neighbours(route, at)
        passes_on = at + 1 < len(route.hops) and route.hops[at + 1] in new
        yield (
            hop,
            Open(
                session=terms.session,
                fingerprint=route.fingerprint,
                enter=hop.span.start,
                exit=hop.span.end,
                tokens=terms.tokens,
                wire_dtype=terms.wire_dtype,
                previous=before,
                next=behind,
                next_addresses=addresses.get(behind, ()) if behind is not None else (),
                silent_below=0 if passes_on else position,
                sharing=terms.sharing,
            ),
        )


def resumptions(
    route: Route,
    kept: Collection[Hop],
    addresses: Addresses,
    wired: Mapping[PeerId, PeerId | None],
    *,
    position: int,
    after: int,
) -> Iterator[tuple[Hop, Resume]]:
    """What the hops that stay are told; `wired` is where each of them sends its output so far."""
    staying = {hop.peer_id for hop in kept}
    for at, hop in enumerate(route.hops):
        if hop not in kept:
            continue
        before, behind = neighbours(route, at)
        replay_from = None
        if behind is not None and behind not in staying:
            replay_from = 0  # a new hop knows nothing
        elif behind != wired.get(hop.peer_id):
            replay_from = position if behind is not None else None  # one that stays has had all before
        next_addresses = addresses.get(behind, ()) if behind is not None else ()
        yield hop, Resume(position, after, before, behind, next_addresses, replay_from)
