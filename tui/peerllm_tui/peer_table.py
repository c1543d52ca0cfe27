"""The peers in view as rows of a table that can be sorted by each of its columns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peerllm.local.inert_text import inert
from peerllm.local.schema import PeerInfo
from peerllm_tui.block_map import sign_of
from peerllm_tui.served_models import named, span_of

_UNKNOWN = "-"
_SHORT_CHARS = 24


@dataclass(frozen=True)
class Column:
    """`value` is what the column is sorted by, None (always last) if it is unknown; `shown` is what is read."""

    key: str
    title: str
    value: Callable[[PeerInfo], float | str | None]
    shown: Callable[[PeerInfo], str]


COLUMNS = (
    Column("name", "Peer", lambda peer: named(peer).casefold(), named),
    Column("span", "Blocks", lambda peer: span_of(peer).start if span_of(peer) else None, lambda peer: _span(peer)),
    Column("state", "State", lambda peer: peer.state, lambda peer: _state(peer)),
    Column("rtt", "RTT ms", lambda peer: peer.rtt_ms, lambda peer: _rtt(peer)),
    Column("block", "ms/block", lambda peer: peer.decode_ms or None, lambda peer: _ms(peer.decode_ms or None, 2)),
    Column("load", "Load", lambda peer: _load_order(peer) if peer.span else None, lambda peer: _load(peer)),
    Column("reach", "Reach", lambda peer: peer.reach or None, lambda peer: _text(peer.reach)),
    Column("trust", "Trust", lambda peer: peer.trust or None, lambda peer: _text(peer.trust)),
    Column("version", "Version", lambda peer: peer.version or None, lambda peer: _text(peer.version)),
    Column("engine", "Engine", lambda peer: peer.engine or None, lambda peer: _text(peer.engine)),
    Column("model", "Model", lambda peer: peer.model or None, lambda peer: _text(peer.model)),
)


def sorted_peers(peers: Iterable[PeerInfo], column: Column, *, backwards: bool = False) -> list[PeerInfo]:
    """By that column, what is unknown at the end either way; equals by id, so that rows do not jump."""
    ordered = sorted(peers, key=lambda peer: peer.peer_id)
    known = [peer for peer in ordered if column.value(peer) is not None]
    unknown = [peer for peer in ordered if column.value(peer) is None]
    return sorted(known, key=lambda peer: _comparable(column, peer), reverse=backwards) + unknown


def troubles(peer: PeerInfo) -> list[str]:
    """What its owner or this one should know, in sentences as `peerllm peers` prints them."""
    said = list[str]()
    if peer.trust:
        said.append(f"{inert(peer.trust)}: {inert(peer.trust_reason)}")
    if peer.reach in ("relayed", "unreachable") and peer.reach_reason:
        said.append(f"{inert(peer.reach)}: {inert(peer.reach_reason)}")
    if peer.clock_ahead_s:
        side = "ahead of" if peer.clock_ahead_s > 0 else "behind"
        said.append(f"its clock is {abs(peer.clock_ahead_s):.0f} s {side} this machine's")
    return said


def _comparable(column: Column, peer: PeerInfo) -> float | str:
    value = column.value(peer)
    return "" if value is None else value


def _span(peer: PeerInfo) -> str:
    return f"{peer.span}/{peer.blocks}" if span_of(peer) else _UNKNOWN


def _state(peer: PeerInfo) -> str:
    return f"{sign_of(peer).character if span_of(peer) else ' '} {inert(peer.state, _SHORT_CHARS)}"


def _rtt(peer: PeerInfo) -> str:
    return "here" if peer.you else _ms(peer.rtt_ms, 1)


def _ms(value: float | None, digits: int) -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}"


def _load_order(peer: PeerInfo) -> float:
    """Whoever has room for more sessions first, then by how long tokens wait."""
    return peer.queue_ms - 1e6 * peer.slots_free


def _load(peer: PeerInfo) -> str:
    """Sessions it has room for, and how long a token waits there."""
    if not span_of(peer):
        return _UNKNOWN
    room = f"{peer.slots_free} free" if peer.slots_free else "full"
    return f"{room}, {peer.queue_ms:.0f} ms" if peer.queue_ms >= 1 else room


def _text(text: str) -> str:
    return inert(text, _SHORT_CHARS) or _UNKNOWN
