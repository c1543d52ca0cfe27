"""The list of peers tells whom spot checks have found wanting."""

from __future__ import annotations

from dataclasses import replace

from peerllm.seen import peer_rows
from peerllm_swarm.clock_skew import Clocks
from peerllm_swarm.reachability import Reach, Standing
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.span import PeerId

ME, LIAR = PeerId("12D3KooWMe"), PeerId("12D3KooWLiar")


class DirectWays:
    """Everybody is reached directly, and every clock is right."""

    standing = Standing(Reach.DIRECT, "", may_announce=True)
    clocks = Clocks()

    def way_to(self, peer_id: PeerId) -> tuple[str, str]:
        return "direct", ""


def record(peer: PeerId) -> PeerRecord:
    return PeerRecord(peer, "0123456789abcdef", 1, 0.0, 60.0, PeerState.IDLE, "", "", ())


def test_a_peer_that_is_not_trusted_is_shown_with_the_reason() -> None:
    view = SwarmView(1.0, (record(LIAR), record(ME)))
    found = {LIAR: ("quarantined", "gave wrong results")}
    rows = peer_rows(
        view, ME, lambda _: None, DirectWays(), lambda peer: found.get(peer, ("", "")), {}, lambda _: False
    )
    assert [(row.peer_id, row.trust, row.trust_reason) for row in rows] == [
        (ME, "", ""),
        (LIAR, "quarantined", "gave wrong results"),
    ]


def test_a_row_tells_version_load_and_the_engine_if_its_fingerprint_is_known() -> None:
    known = replace(record(ME), software="1.2", queue_ms=7.5, fingerprint="f")
    rows = peer_rows(
        SwarmView(1.0, (known, replace(record(LIAR), fingerprint="g"))),
        ME,
        lambda _: None,
        DirectWays(),
        lambda _: ("", ""),
        {"f": "llama"},
        lambda peer: peer == LIAR,
    )
    assert [(row.version, row.queue_ms, row.engine) for row in rows] == [("1.2", 7.5, "llama"), ("", 0.0, "")]
    assert [row.by_socket for row in rows] == [False, True]


def test_a_row_tells_of_a_group() -> None:
    lead, member = replace(record(ME), members=(LIAR,)), replace(record(LIAR), group=ME)
    rows = peer_rows(
        SwarmView(1.0, (lead, member)), ME, lambda _: None, DirectWays(), lambda _: ("", ""), {}, lambda _: False
    )
    assert [(row.group, row.members) for row in rows] == [("", (LIAR,)), (ME, ())]
