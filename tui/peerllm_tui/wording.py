"""What the screens say of answers, models and the daemon, in the words of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peerllm.local.inert_text import counted, inert, listed
from peerllm.local.schema import Status
from peerllm_tui.route_text import route_text

if TYPE_CHECKING:
    from peerllm.local.accounts import RequestAccount
    from peerllm.local.client import ChatDone

NO_MODEL = "no model in the swarm yet"
WAITING = "waiting for the first token"
SEEN_BY = "hidden states"
"""Stands in the one note that stays true when the answer has ended."""

ENDS = {"length": "Cut at the length limit."}
STOPPED = "Stopped."

_LOADABLE = "will be loaded when asked"
_NAME_CHARS = 24


def harmless(text: str) -> str:
    """A model must not steer the terminal: no control characters but line breaks and tabs."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def answer_facts(done: ChatDone, context_tokens: int) -> str:
    """How much and how fast, and how full the context is."""
    facts = [counted(done.completion_tokens, "token")]
    if done.tokens_per_s:
        facts.append(f"{done.tokens_per_s:.1f} tokens/s")
    if done.accepted_tokens:
        facts.append(f"{done.accepted_per_round:.1f} guessed right per round")
    if done.ttft_s:
        facts.append(f"first token after {done.ttft_s:.2f} s")
    used = done.prompt_tokens + done.completion_tokens
    facts.append(f"context {used} of {context_tokens}" if context_tokens else f"context {used}")
    if done.recoveries:
        facts.append(f"{counted(done.recoveries, 'lost hop')} replaced")
    return " · ".join(facts)


def route_facts(done: ChatDone, account: RequestAccount | None) -> str:
    """The hops in order with the slowest one named; without an account spans and ends of ids."""
    if account is not None and account.hops:
        return route_text(account)
    hops = [hop.partition("@") for hop in done.route]
    return inert(" → ".join(f"{span} …{peer_id[-6:]}" for span, _, peer_id in hops)) or "answered here"


def seen_by(account: RequestAccount, own_id: str) -> str:
    """Lost hops are not in the route, but have seen the prompt all the same."""
    others = [_called(each.name, each.peer_id) for each in (*account.hops, *account.changes) if each.peer_id != own_id]
    names = listed(list(dict.fromkeys(others)), most=8)
    return f"This prompt's hidden states were seen by {names or 'no other machine'}."


def model_state(model: Mapping[str, Any]) -> str:
    """What the state of a model of /v1/models means."""
    state, fraction, eta_s = inert(str(model.get("state", ""))), model.get("fraction"), model.get("eta_s")
    if state == "loadable":
        return _LOADABLE
    if state != "loading":
        return state
    percent = f" {fraction:.0%}" if isinstance(fraction, int | float) else ""
    left = f", {math.ceil(eta_s)} s left" if isinstance(eta_s, int | float) else ""
    return f"{state}{percent}{left}"


def daemon_state(status: Status) -> str:
    """ "home · 2 other peers · serving", or what it does instead and why."""
    now = status.lifecycle
    progress = "" if now.progress is None else f" {now.progress:.0%}"
    reason = f": {now.reason}" if now.reason else ""
    return inert(f"{now.name}{progress} · {status.swarm} · {counted(status.peers, 'other peer')}{reason}")


def _called(name: str, peer_id: str) -> str:
    return inert(name, _NAME_CHARS) or f"…{inert(peer_id[-6:])}"
