"""Whether this machine may lend now, and why: one function from readings and policy to a decision. Pure.

What speaks against lending stops it with the very reading that shows it; lending goes on only after `resume_s` without
anything of that kind. What the owner says counts at once, both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peerllm.serving.objections import Objection, no_core_left, objections
from peerllm.serving.policy import Policy
from peerllm.serving.readings import Readings
from peerllm.serving.thread_room import ThreadRoom, in_use, is_crowded, room_for_threads
from peerllm.serving.verdict import Decision, SignalName, Verdict

__all__ = ["Decision", "GovernorState", "SignalName", "Verdict", "decide"]

CROWDED_S = 3.0
"""A burst on all cores is waited out in the lowest class; in a longer one a step takes 50 times as long, and those who
ask are better off elsewhere. docs/adr/0018-the-idle-class-and-a-pause.md"""

_STRENGTH = {verdict: strength for strength, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class GovernorState:
    """What `decide` remembers from one reading to the next; begin with `GovernorState()`."""

    decision: Decision | None = None
    since: float = 0.0
    """When the verdict became what it is."""
    policy: Policy | None = None
    touched_at: float = -math.inf
    """The last key or pointer that is known of."""
    held: tuple[tuple[Objection, float], ...] = ()
    """What spoke against lending, and when it was last seen to."""
    paused_at: float | None = None
    room: ThreadRoom = ThreadRoom()  # noqa: RUF009 - frozen
    crowded_since: float | None = None
    """Others have wanted every core since then."""


def decide(state: GovernorState, readings: Readings, policy: Policy, now: float) -> tuple[GovernorState, Decision]:
    """The next state, and what to do now. `now` is Unix time, as `readings.at`."""
    state = _recalled(state, policy, now)
    touched_at = max(state.touched_at, _touched_at(readings))
    idle_s = None if readings.idle_s is None else now - touched_at
    present = objections(readings, policy, now, idle_s)
    crowded = is_crowded(readings) and not policy.crowded
    crowded_since = (now if state.crowded_since is None else state.crowded_since) if crowded else None
    if crowded_since is not None and now - crowded_since >= CROWDED_S:
        present.append(no_core_left(policy))
    held = _held(state.held, present, policy.resume_s, now)
    user = policy.idle_after_s is None and in_use(idle_s)
    room = room_for_threads(state.room, readings, now, user=user)
    paused_at = (now if state.paused_at is None else state.paused_at) if held else None
    if paused_at is None:
        decision = _lending(room, readings, user)
    else:
        decision = _paused(held, _released(state, held, now - paused_at >= policy.release_s))
    same = state.decision is not None and state.decision.verdict is decision.verdict
    since = state.since if same else now
    return GovernorState(decision, since, policy, touched_at, held, paused_at, room, crowded_since), decision


def _touched_at(readings: Readings) -> float:
    return -math.inf if readings.idle_s is None else readings.at - max(0.0, readings.idle_s)


def _recalled(state: GovernorState, policy: Policy, now: float) -> GovernorState:
    """The state as far as it counts: another policy or word of the owner ends all waiting; no time is yet to come."""
    return replace(
        state,
        touched_at=min(state.touched_at, now),
        held=tuple((each, min(at, now)) for each, at in state.held) if state.policy == policy else (),
        paused_at=None if state.paused_at is None else min(state.paused_at, now),
        room=replace(state.room, since=min(state.room.since, now)),
        crowded_since=None if state.crowded_since is None else min(state.crowded_since, now),
    )


def _held(
    before: Sequence[tuple[Objection, float]], present: Sequence[Objection], resume_s: float, now: float
) -> tuple[tuple[Objection, float], ...]:
    """What speaks against lending now, and what did so less than `resume_s` ago, in the order of `SignalName`."""
    latest = {each.signal: (each, at) for each, at in before if each.settles and now - at < resume_s}
    latest |= {each.signal: (each, now) for each in present}
    return tuple(latest[name] for name in SignalName if name in latest)


def _released(state: GovernorState, held: Sequence[tuple[Objection, float]], overdue: bool) -> bool:
    """Whether memory is given back; what was given back is not taken again before lending goes on."""
    before = state.decision is not None and state.decision.verdict is Verdict.RELEASE
    return before or overdue or any(each.verdict is Verdict.RELEASE for each, _ in held)


def _paused(held: Sequence[tuple[Objection, float]], released: bool) -> Decision:
    leading = max((each for each, _ in held), key=lambda each: _STRENGTH[each.verdict])  # the first of the strongest
    off = leading.signal in (SignalName.CONSENT, SignalName.SWITCH)
    word = "off" if off else "paused, memory given back" if released else "paused"
    return Decision(
        Verdict.RELEASE if released else Verdict.PAUSE,
        f"{word}: {leading.why}; {leading.ends}",
        threads=1,
        held=tuple(each.signal for each, _ in held),
    )


def _lending(room: ThreadRoom, readings: Readings, user: bool) -> Decision:
    cores = readings.cores
    if room.cores is not None and room.cores >= cores:
        return Decision(Verdict.SHARE, "sharing: nobody else needs this computer")
    threads = max(1, room.cores or 0)
    beside_user = user and room.cores == cores - 1
    if room.cores is None:
        why = "what other programs use cannot be read"
    elif beside_user:
        why = "one is left to you, as you are using this computer"
    else:
        why = "the others are left to your programs"
    held = (SignalName.USER if beside_user else SignalName.OTHERS,)
    return Decision(Verdict.REDUCE, f"sharing less, with {threads} of {cores} cores: {why}", threads, held)
