"""What this machine lends, why, and to which swarm it belongs, as lines of a term and what is said of it. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peerllm.local.inert_text import counted, inert, listed
from peerllm.local.membership import Member
from peerllm.local.placement import PlacementAccount
from peerllm.local.schema import ContributionStatus, LifecycleState, MembershipStatus, Status
from peerllm.sizes import format_bytes

PUBLIC = "public: whoever can reach this machine can use what it lends and read what passes through it"

_NAMES_SHOWN = 6
_NAME_CHARS = 24


@dataclass(frozen=True)
class Fact:
    """`style` is "" for what is as it should be."""

    term: str
    text: str
    style: str = ""


def lent_facts(status: Status, placement: PlacementAccount) -> list[Fact]:
    """The state with its reason, the span and why it is that one, and what it costs this machine."""
    lent = status.contribution
    facts = [
        Fact("state", state_text(status.lifecycle), "$error" if status.lifecycle.name == "error" else ""),
        Fact("sharing", _sharing(lent), "$success" if lent.enabled and lent.span else ""),
    ]
    if placement.model:
        facts.append(Fact("why these", inert(placement.why)))
        facts.append(Fact("could hold", f"{placement.capacity_blocks} blocks, {placement.block_ms:.2f} ms each"))
    if placement.alone:
        facts.append(Fact("needed for", f"blocks {_spans(placement.alone)}: nobody else serves them", "$warning"))
    if placement.missing:
        facts.append(Fact("missing", f"blocks {_spans(placement.missing)}: nobody serves them", "$error"))
    if lent.enabled and lent.span:
        facts.append(Fact("sessions", f"{lent.slots_used} of {lent.slots_used + lent.slots_free} in use"))
    if lent.memory_bytes:
        facts.append(Fact("memory", f"up to {format_bytes(lent.memory_bytes)} lent"))
    if lent.engine:
        facts.append(Fact("engine", _engine(lent)))
    if lent.weights_bytes_downloaded:
        facts.append(Fact("downloaded", f"{format_bytes(lent.weights_bytes_downloaded)} of weights"))
    return facts


def limit_facts(contribution: Mapping[str, Any]) -> list[Fact]:
    """The limits that the daemon runs with, by the names under which `peerllm config set` takes them.

    Args:
        contribution: that section of `LocalClient.config`.
    """
    meanings = {
        "memory_bytes": _memory_limit,
        "max_blocks": lambda value: f"{value} blocks at most" if value else "0: as many blocks as the memory holds",
        "span": lambda value: f"blocks {value} only" if value else "the peer chooses",
        "slots": lambda value: f"{counted(value, 'session')} at once",
        "context_tokens": lambda value: f"{counted(value, 'token')} a session",
        "model": str,
        "also": lambda value: ", ".join(map(str, value)) or "no other models",
    }
    return [
        Fact(f"contribution.{name}", inert(meaning(contribution[name])))
        for name, meaning in meanings.items()
        if name in contribution
    ]


def membership_facts(status: Status, members: Sequence[Member]) -> list[Fact]:
    """The swarm, what kind it is, and who of its members is there."""
    now = status.membership
    facts = [
        Fact("swarm", f"{inert(status.swarm)}, {'public' if now.public else 'private'}"),
        Fact("in view", counted(status.peers, "other peer")),
    ]
    if now.public:
        facts.append(Fact("take care", PUBLIC, "$warning"))
    elif now.problem:
        facts.append(Fact("problem", inert(now.problem), "$error"))
    elif now.expires_at:
        facts.append(Fact("member", _member(now)))
    if now.renewal:
        facts.append(Fact("renewal", inert(now.renewal), "$warning"))
    if members:
        facts.append(Fact("online", _online(members)))
    if status.network.reach != "unknown":
        facts.append(Fact("reached", _reached(status)))
    facts += [
        Fact("found by", f"{inert(each.name)} is down: {inert(each.reason)}", "$warning")
        for each in status.directories
        if not each.up
    ]
    if status.network.clock:
        facts.append(Fact("clock", inert(status.network.clock), "$warning"))
    return facts


def state_text(state: LifecycleState) -> str:
    progress = "" if state.progress is None else f" {state.progress:.0%}"
    return f"{inert(state.name)}{progress}" + (f": {inert(state.reason)}" if state.reason else "")


def _sharing(lent: ContributionStatus) -> str:
    """In the words of the web page."""
    if not lent.enabled:
        return f"off: {inert(lent.reason)}" if lent.reason else "off; you can ask all the same"
    if not lent.span:
        return f"on, no blocks yet: {inert(lent.reason)}" if lent.reason else "on, no blocks yet"
    return f"on, blocks {lent.span} of {lent.blocks}, {inert(lent.model)}"


def _engine(lent: ContributionStatus) -> str:
    speed = f", {lent.decode_ms:.2f} ms for a block and token" if lent.decode_ms else ""
    return f"{inert(lent.engine)} {inert(lent.dtype)}".strip() + speed


def _memory_limit(value: int) -> str:
    return f"{format_bytes(value)} at most" if value else "0: half of what is free at start"


def _member(now: MembershipStatus) -> str:
    rights = ", made here" if now.made_here else ", may let others in" if now.may_issue else ""
    return f"until {time.strftime('%Y-%m-%d', time.localtime(now.expires_at))}{rights}"


def _online(members: Sequence[Member]) -> str:
    valid = [member for member in members if not member.revoked]
    there = [member for member in valid if member.online or member.you]
    names = [f"{inert(member.name, _NAME_CHARS) or '…' + inert(member.peer_id[-6:])}" for member in there]
    return f"{len(there)} of {counted(len(valid), 'member')}" + (f": {listed(names, _NAMES_SHOWN)}" if names else "")


def _reached(status: Status) -> str:
    reason = f": {inert(status.network.reason)}" if status.network.reason else ""
    return f"{inert(status.network.reach)}{reason}"


def _spans(spans: Sequence[str]) -> str:
    return listed([inert(span) for span in spans])
