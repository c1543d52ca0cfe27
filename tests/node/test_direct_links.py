"""What is kept of links and ways: each connection's number counts once, and all of it is bounded."""

from __future__ import annotations

from peerllm.wire.channel_keys import Link
from peerllm.wire.direct_links import CONNECTIONS_PER_LINK, LINK_S, LINKS_PER_PEER, GrantedLinks, Way, lasting_until
from peerllm.wire.direct_ways import FIRST_PAUSE_S, LAST_PAUSE_S, DirectWays
from peerllm_swarm.span import PeerId
from tests.support.streams import FAR, NEAR


def _link(number: int, opener: PeerId = NEAR) -> Link:
    return Link(number.to_bytes(16, "big"), opener, FAR, bytes(32))


def test_each_number_of_a_link_counts_once_in_any_order() -> None:
    links, link = GrantedLinks(), _link(1)
    links.add(link, 0.0)
    for number in (5, 0, CONNECTIONS_PER_LINK - 1):
        assert links.find(link.link_id, number, 1.0) is link
        links.use(link.link_id, number)
        assert links.find(link.link_id, number, 1.0) is None
    assert links.find(link.link_id, 4, 1.0) is link
    assert links.find(link.link_id, CONNECTIONS_PER_LINK, 1.0) is None
    assert links.find(bytes(16), 4, 1.0) is None
    assert links.find(link.link_id, 4, LINK_S) is None


def test_a_peer_pushes_out_only_links_of_its_own() -> None:
    links, other = GrantedLinks(), _link(0, FAR)
    links.add(other, 0.0)
    mine = [_link(1 + number) for number in range(3 * LINKS_PER_PEER)]
    for link in mine:
        links.add(link, 1.0)
    kept = [link for link in mine if links.find(link.link_id, 0, 2.0) is not None]
    assert kept == mine[-LINKS_PER_PEER:]
    assert links.find(other.link_id, 0, 2.0) is other


def test_links_that_have_ended_are_forgotten() -> None:
    links = GrantedLinks()
    for number in range(10):
        links.add(_link(number, PeerId(f"12D3KooW{number}")), 0.0)
    links.add(_link(99), LINK_S)
    assert len(links) == 1


def test_a_way_ends_before_the_other_side_forgets_it_and_when_its_numbers_are_used_up() -> None:
    way = Way(_link(1), ("127.0.0.1",), 1, lasting_until(0.0))
    assert way.lasts(0.0)
    assert not way.lasts(LINK_S - 1)
    assert [way.number() for _ in range(CONNECTIONS_PER_LINK)] == list(range(CONNECTIONS_PER_LINK))
    assert not way.lasts(0.0)


def test_who_does_not_answer_is_left_alone_for_longer_each_time_until_it_does() -> None:
    ways, now, pauses = DirectWays(), 0.0, list[float]()
    for _ in range(7):
        ways.pause(FAR, now)
        assert not ways.may_try(FAR, now)
        pause_s = next(s for s in (30, 60, 120, 240, 480, 600) if ways.may_try(FAR, now + s))
        pauses.append(pause_s)
        now += pause_s
    assert pauses == [FIRST_PAUSE_S, 60, 120, 240, 480, LAST_PAUSE_S, LAST_PAUSE_S]
    way = Way(_link(1), ("127.0.0.1",), 1, now + 100)
    ways.keep(FAR, way)
    assert ways.kept(FAR, now) is way
    assert ways.kept(FAR, now + 100) is None
    ways.pause(FAR, now)
    assert ways.kept(FAR, now) is None
    assert ways.may_try(FAR, now + FIRST_PAUSE_S)
