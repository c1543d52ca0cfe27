"""The life of a contribution as one function from (state, event) to (state, action).

off ──on──> choosing ──chosen──> loading ──loaded──> warming ──warmed──> serving
               ^ ^                  │                   │                   │ off, or moving
               │ └─ failed, after a pause ──────────────┘                   v
               └───────────────────── drained, still wanted ──────────── draining ──drained──> off

A machine that chooses or serves may be invited to a group instead, and chooses again when that is over:

choosing | serving ──invited──> grouped ──parted──> choosing

Whatever is wanted may be held: paused, with the weights of a span that was served, or released, without any. It goes
on where it was held: it serves again if the weights are still there, else it chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from peerllm_swarm.span import BlockSpan


class Phase(StrEnum):
    OFF = "off"
    CHOOSING = "choosing"
    LOADING = "loading"
    WARMING = "warming"
    SERVING = "serving"
    GROUPED = "grouped"
    DRAINING = "draining"
    PAUSED = "paused"


@dataclass(frozen=True)
class Contribution:
    """Where this machine is; `wanted` is what its owner has said, `reason` why it is not serving.

    `finishing` is a draining in which sessions end by themselves. A paused machine has a span while it is in memory.
    """

    phase: Phase = Phase.OFF
    wanted: bool = False
    span: BlockSpan | None = None
    reason: str = "sharing is off"
    finishing: bool = False


# Events


@dataclass(frozen=True)
class SwitchedOn:
    """The owner lends; `reason` of earlier pauses is forgotten."""


@dataclass(frozen=True)
class SwitchedOff:
    reason: str
    finish: bool = False
    """Let running sessions end by themselves, rather than hand them over."""


@dataclass(frozen=True)
class Held:
    """Somebody else needs this machine now: hand over all sessions, keep the weights."""

    reason: str


@dataclass(frozen=True)
class Released:
    """Nor is there memory for the weights, or not for long enough to keep them."""

    reason: str


@dataclass(frozen=True)
class GoOn:
    """Nothing holds this machine back any more."""


@dataclass(frozen=True)
class LentAnew:
    """More is lent, or less, or something else: choose again with what is lent now."""


@dataclass(frozen=True)
class Chosen:
    span: BlockSpan


@dataclass(frozen=True)
class Loaded:
    """The span is in memory."""


@dataclass(frozen=True)
class Warmed:
    """The span has run and its throughput is known: it may be announced."""


@dataclass(frozen=True)
class Failed:
    """Choosing or loading did not work out; tried again after a pause."""

    reason: str


@dataclass(frozen=True)
class Moving:
    """The swarm is better served by another span: drain this one, then choose again."""

    reason: str


@dataclass(frozen=True)
class Moved:
    """Another span is served; the new one was loaded beside the old."""

    span: BlockSpan


@dataclass(frozen=True)
class Invited:
    """It serves in somebody else's group from now on, and nothing of its own."""

    reason: str


@dataclass(frozen=True)
class Parted:
    """That group is no more, or this machine is not in it any more."""

    reason: str


@dataclass(frozen=True)
class Drained:
    """The last session has ended or moved, and the span is unloaded."""


Event = (
    SwitchedOn
    | SwitchedOff
    | Held
    | Released
    | GoOn
    | LentAnew
    | Chosen
    | Loaded
    | Warmed
    | Failed
    | Moving
    | Moved
    | Invited
    | Parted
    | Drained
)


class Action(StrEnum):
    """What is to be done now; each also ends whatever was under way."""

    CHOOSE = "choose"
    CHOOSE_LATER = "choose later"
    LOAD = "load"
    WARM = "warm"
    SERVE = "serve"
    DRAIN = "drain"
    FINISH = "finish"
    FOLLOW = "follow"
    HOLD = "hold"
    RELEASE = "release"
    STOP = "stop"


def advance(now: Contribution, event: Event) -> tuple[Contribution, Action | None]:
    """The next state and what to do. An event that comes too late for its phase changes nothing."""
    match event:
        case SwitchedOn() | SwitchedOff():
            return _switched(now, event)
        case Held() | Released() | GoOn():
            return _held(now, event)
        case LentAnew():
            return _lent_anew(now)
        case _:
            return _gone_on(now, event)


def _switched(now: Contribution, event: SwitchedOn | SwitchedOff) -> tuple[Contribution, Action | None]:
    match event, now.phase:
        case SwitchedOn(), Phase.OFF:
            return Contribution(Phase.CHOOSING, wanted=True, reason=""), Action.CHOOSE
        case SwitchedOn(), Phase.DRAINING if now.finishing:
            return Contribution(Phase.SERVING, wanted=True, span=now.span, reason=""), Action.SERVE
        case SwitchedOn(), _:
            return replace(now, wanted=True), None
        case SwitchedOff(reason), Phase.CHOOSING | Phase.LOADING | Phase.WARMING | Phase.GROUPED | Phase.PAUSED:
            return Contribution(reason=reason), Action.STOP
        case SwitchedOff(reason, finish), Phase.SERVING:
            draining = replace(now, phase=Phase.DRAINING, wanted=False, reason=reason, finishing=finish)
            return draining, Action.FINISH if finish else Action.DRAIN
        case SwitchedOff(reason, finish=False), Phase.DRAINING if now.finishing:
            return replace(now, reason=reason, finishing=False), Action.DRAIN
        case SwitchedOff(reason), _:
            return replace(now, wanted=False, reason=reason), None


def _held(now: Contribution, event: Held | Released | GoOn) -> tuple[Contribution, Action | None]:
    match event, now.phase:
        case Held(reason), Phase.SERVING:
            return replace(now, phase=Phase.PAUSED, reason=reason), Action.HOLD
        case Released(reason), Phase.SERVING:
            return Contribution(Phase.PAUSED, wanted=True, reason=reason), Action.RELEASE
        case Released(reason), Phase.PAUSED if now.span is not None:
            return replace(now, span=None, reason=reason), Action.RELEASE
        case ((Held(reason) | Released(reason)), Phase.PAUSED):
            return replace(now, reason=reason), None
        case ((Held(reason) | Released(reason)), Phase.DRAINING) if not now.wanted:
            return Contribution(reason=now.reason), Action.STOP
        case (
            (Held(reason) | Released(reason)),
            Phase.CHOOSING | Phase.LOADING | Phase.WARMING | Phase.GROUPED | Phase.DRAINING,
        ):
            return Contribution(Phase.PAUSED, wanted=True, reason=reason), Action.STOP
        case GoOn(), Phase.PAUSED if now.span is not None:
            return replace(now, phase=Phase.SERVING, reason=""), Action.SERVE
        case GoOn(), Phase.PAUSED:
            return Contribution(Phase.CHOOSING, wanted=True, reason=""), Action.CHOOSE
        case _:
            return now, None


def _lent_anew(now: Contribution) -> tuple[Contribution, Action | None]:
    match now.phase:
        case Phase.SERVING:
            return replace(now, phase=Phase.DRAINING, reason="what is lent has changed"), Action.DRAIN
        case Phase.PAUSED if now.span is not None:
            return replace(now, span=None), Action.RELEASE
        case Phase.CHOOSING | Phase.LOADING | Phase.WARMING | Phase.GROUPED:
            return Contribution(Phase.CHOOSING, wanted=True, reason=""), Action.CHOOSE
        case _:
            return now, None


def _gone_on(now: Contribution, event: Event) -> tuple[Contribution, Action | None]:
    match event, now.phase:
        case Moving(reason), Phase.SERVING:
            return replace(now, phase=Phase.DRAINING, reason=reason), Action.DRAIN
        case Moved(span), Phase.SERVING | Phase.DRAINING:
            return replace(now, span=span), None
        case Moved(span), Phase.PAUSED if now.span is not None:
            return replace(now, span=span), None
        case Invited(reason), Phase.CHOOSING | Phase.SERVING:
            return Contribution(Phase.GROUPED, wanted=True, reason=reason), Action.FOLLOW
        case ((Parted(reason) | Failed(reason)), Phase.GROUPED):
            return Contribution(Phase.CHOOSING, wanted=True, reason=reason), Action.CHOOSE
        case Chosen(span), Phase.CHOOSING:
            return replace(now, phase=Phase.LOADING, span=span), Action.LOAD
        case Loaded(), Phase.LOADING:
            return replace(now, phase=Phase.WARMING), Action.WARM
        case Warmed(), Phase.WARMING:
            return replace(now, phase=Phase.SERVING, reason=""), Action.SERVE
        case Failed(reason), Phase.CHOOSING | Phase.LOADING | Phase.WARMING:
            return Contribution(Phase.CHOOSING, wanted=True, reason=reason), Action.CHOOSE_LATER
        case Drained(), Phase.DRAINING if now.wanted:
            return Contribution(Phase.CHOOSING, wanted=True, reason=""), Action.CHOOSE
        case Drained(), Phase.DRAINING:
            return Contribution(reason=now.reason), None
        case _:
            return now, None
