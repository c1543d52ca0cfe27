"""Peers whose blocks compute different numbers are never asked for one answer together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from peerllm_swarm.errors import NoRoute
from peerllm_swarm.records import PeerRecord, SwarmView
from peerllm_swarm.routing import Route, choose_route, find_route, recover
from peerllm_swarm.span import BlockSpan
from tests.swarm.routed_peers import ME, NOW
from tests.swarm.routed_peers import peer as routed_peer

BLOCKS = 12
PRINTS = ("0123456789abcdef", "0123456789abcdee", "fedcba9876543210")


def peer(name: str, span: BlockSpan, fingerprint: str, **changes: object) -> PeerRecord:
    known: dict[str, object] = {"blocks": BLOCKS, "model": "the same name", "fingerprint": fingerprint, **changes}
    return replace(routed_peer(name, span.start, span.end), **known)  # pyright: ignore[reportArgumentType]  # by name


def crowd(seed: int) -> SwarmView:
    """Peers of one model's name, in three forms, with spans that often only fit together across the forms."""
    random = Random(seed)
    records: list[PeerRecord] = []
    for number in range(random.randint(6, 20)):
        start = random.randrange(BLOCKS - 3)
        span = BlockSpan(start, random.randint(start + 3, BLOCKS))
        changes = {"decode_ms": random.uniform(0.1, 9), "free_entry": random.random() < 0.7}
        records.append(peer(f"peer {number}", span, random.choice(PRINTS), **changes))
    return SwarmView(NOW, tuple(records))


def prints_of(route: Route, view: SwarmView) -> set[str]:
    records = {record.peer_id: record for record in view.records}
    return {records[hop.peer_id].fingerprint for hop in route.hops}


def routes(view: SwarmView, fingerprints: Iterable[str] = PRINTS) -> Iterable[Route]:
    for fingerprint in fingerprints:
        try:
            yield find_route(view, fingerprint, BLOCKS, asker=ME)
        except NoRoute:
            continue


def test_every_hop_of_every_route_has_the_fingerprint_asked_for() -> None:
    found = [(route, crowd(seed)) for seed in range(400) for route in routes(crowd(seed))]
    assert len(found) > 100
    assert all(prints_of(route, view) == {route.fingerprint} for route, view in found)


def test_recovery_stays_with_the_fingerprint() -> None:
    recovered = 0
    for seed in range(400):
        view = crowd(seed)
        for route in routes(view):
            lost = [hop for hop in route.hops if Random(seed).random() < 0.5] or [route.hops[0]]
            try:
                again = recover(route, lost, view, asker=ME)
            except NoRoute:
                continue
            recovered += 1
            assert prints_of(again, view) == {route.fingerprint}
    assert recovered > 20


def test_choice_between_forms_takes_one_of_them_whole() -> None:
    for seed in range(200):
        view = crowd(seed)
        try:
            route = choose_route(view, PRINTS, BLOCKS, has_ends=lambda _: True, asker=ME)
        except NoRoute:
            assert not list(routes(view))
        else:
            assert len(prints_of(route, view)) == 1


def test_cover_that_only_exists_across_forms_is_none() -> None:
    view = SwarmView(NOW, (peer("a", BlockSpan(0, 6), PRINTS[0]), peer("b", BlockSpan(6, 12), PRINTS[1])))
    for fingerprint, missing in ((PRINTS[0], BlockSpan(6, 12)), (PRINTS[1], BlockSpan(0, 6))):
        with pytest.raises(NoRoute) as refused:
            find_route(view, fingerprint, BLOCKS, asker=ME)
        assert refused.value.missing == (missing,)


def test_peer_that_came_back_with_other_weights_does_not_replace_itself() -> None:
    front, back, spare = (
        peer("front", BlockSpan(0, 6), PRINTS[0]),
        peer("back", BlockSpan(6, 12), PRINTS[0]),
        peer("spare", BlockSpan(6, 12), PRINTS[0], decode_ms=50.0),
    )
    route = find_route(SwarmView(NOW, (front, back, spare)), PRINTS[0], BLOCKS, asker=ME)
    assert [hop.peer_id for hop in route.hops] == ["front", "back"]
    returned = replace(back, fingerprint=PRINTS[1], sequence=2)
    again = recover(route, [route.hops[1]], SwarmView(NOW, (front, returned, spare)), asker=ME)
    assert [hop.peer_id for hop in again.hops] == ["front", "spare"]
    with pytest.raises(NoRoute):
        recover(route, [route.hops[1]], SwarmView(NOW, (front, returned)), asker=ME)


def test_equal_fingerprint_of_another_length_is_not_taken() -> None:
    view = SwarmView(NOW, (peer("a", BlockSpan(0, 12), PRINTS[0], blocks=24),))
    with pytest.raises(NoRoute):
        find_route(view, PRINTS[0], BLOCKS, asker=ME)
