"""What the owner is told in a bubble: the first share, another swarm, a problem; each once. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peerllm_tray.moment import Look
from peerllm_tray.plain_text import plain
from peerllm_tray.surface import Notice


@dataclass(frozen=True)
class Told:
    """What the owner knows already; `shared` outlasts the tray, the rest is for as long as it runs."""

    shared: bool = False
    swarm: str = ""
    problems: frozenset[str] = frozenset()


def notices(told: Told, look: Look) -> tuple[Told, list[Notice]]:
    """What is to be told after this look."""
    found = [*_first_share(told, look), *_joined(told, look), *_problems(told, look)]
    known = replace(
        told,
        shared=told.shared or _serves(look),
        swarm=look.status.swarm,
        problems=told.problems.union(_troubles(look)),
    )
    return known, found


def _first_share(told: Told, look: Look) -> list[Notice]:
    if told.shared or not _serves(look):
        return []
    lent = look.status.contribution
    text = f"It serves blocks {plain(lent.span)} of {plain(lent.model)}. A click on the icon stops that."
    return [Notice("This computer is lent", text)]


def _joined(told: Told, look: Look) -> list[Notice]:
    """The swarm of the first look is no news."""
    if told.swarm in ("", look.status.swarm):
        return []
    return [Notice("Another swarm", f"This computer takes part in the swarm {plain(look.status.swarm, 40)} now.")]


def _problems(told: Told, look: Look) -> list[Notice]:
    return [
        Notice("peerllm needs you", plain(text), urgent=True) for text in _troubles(look) if text not in told.problems
    ]


def _troubles(look: Look) -> list[str]:
    lifecycle, membership = look.status.lifecycle, look.status.membership
    failed = [lifecycle.reason or "the daemon cannot go on; see `peerllm status`"] if lifecycle.name == "error" else []
    return [*failed, *filter(None, [membership.problem])]


def _serves(look: Look) -> bool:
    return look.lends and bool(look.status.contribution.span)
