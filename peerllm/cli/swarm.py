"""``peerllm peers`` and ``swarm``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect
from peerllm.cli.membership import add_swarm_choices
from peerllm.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.schema import ModelCoverage, PeerInfo

_MAP_COLUMNS = 60


def add_commands(verbs: Subparsers) -> None:
    peers = verbs.add_parser("peers", help="who is in the swarm and what they serve")
    peers.add_argument("--json", action="store_true", help="as JSON")
    peers.set_defaults(run=_peers)

    swarm = verbs.add_parser("swarm", help="which blocks of which model are served; create, list and use swarms")
    swarm.add_argument("--json", action="store_true", help="as JSON")
    swarm.set_defaults(run=_swarm)
    add_swarm_choices(swarm)


def _peers(arguments: argparse.Namespace) -> int:
    with connect() as client:
        peers = client.peers()
    if arguments.json:
        print_json([peer.to_json() for peer in peers])
    elif peers:
        header = ("PEER", "NAME", "STATE", "MODEL", "BLOCKS", "MS/BLOCK", "RTT MS", "FREE", "REACH")
        print_table(header, [_peer_row(peer) for peer in peers])
        _print_troubles(peers)
    else:
        print("no peers in view; `peerllm join HOST` enters a swarm beyond the local network")
    return 0


def _peer_row(peer: PeerInfo) -> tuple[str, ...]:
    return (
        f"{peer.peer_id[-8:]}{' (you)' if peer.you else ''}",
        peer.name,
        peer.state,
        peer.model or "-",
        _blocks(peer),
        f"{peer.decode_ms:.2f}" if peer.decode_ms else "-",
        "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f}",
        str(peer.slots_free) if peer.span else "-",
        f"{peer.reach or '-'}{', socket' if peer.by_socket else ''}",
    )


def _blocks(peer: PeerInfo) -> str:
    if peer.group:
        return f"a slice, with {peer.group[-8:]}"
    if not peer.span:
        return "-"
    return f"{peer.span}/{peer.blocks}" + (f", group of {len(peer.members) + 1}" if peer.members else "")


def _print_troubles(peers: list[PeerInfo]) -> None:
    for peer in peers:
        if peer.reach in ("relayed", "unreachable") and peer.reach_reason:
            print(f"{peer.peer_id[-8:]} is {peer.reach}: {peer.reach_reason}")
        if peer.trust:
            print(f"{peer.peer_id[-8:]} is {peer.trust}: {peer.trust_reason}")
        if peer.clock_ahead_s:
            side = "ahead of" if peer.clock_ahead_s > 0 else "behind"
            print(f"{peer.peer_id[-8:]} has a clock {abs(peer.clock_ahead_s):.0f} s {side} this machine's")


def _swarm(arguments: argparse.Namespace) -> int:
    with connect() as client:
        swarm = client.swarm()
    if arguments.json:
        print_json(swarm.to_json())
        return 0
    print_fields({"swarm": swarm.name, "id": swarm.id, "peers": len(swarm.peers)})
    for coverage in swarm.models:
        print()
        _print_coverage(coverage, [peer for peer in swarm.peers if peer.model == coverage.model and peer.span])
    return 0


def _print_coverage(coverage: ModelCoverage, peers: list[PeerInfo]) -> None:
    gaps = f", missing {', '.join(coverage.gaps)}" if coverage.gaps else ", complete"
    print_fields({coverage.model: f"{coverage.covered} of {coverage.blocks} blocks served{gaps}"})
    for peer in sorted(peers, key=lambda peer: _bounds(peer.span)):
        print(f"  {_map(peer.span, coverage.blocks)}  {peer.span:>7}  {peer.peer_id[-8:]}  {peer.state}")


def _map(span: str, blocks: int) -> str:
    """Where the span lies in the model: ``······####······``."""
    start, end = _bounds(span)
    scale = min(1.0, _MAP_COLUMNS / max(1, blocks))
    left, right, width = round(start * scale), max(round(end * scale), round(start * scale) + 1), round(blocks * scale)
    return ("·" * left + "#" * (right - left) + "·" * (width - right))[:_MAP_COLUMNS]


def _bounds(span: str) -> tuple[int, int]:
    start, _, end = span.partition(":")
    return int(start), int(end)
