"""What holds for the governor whatever is read, and however it flaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from peerllm.serving.governor import Decision, GovernorState, SignalName, decide
from peerllm.serving.policy import OwnersWord, Policy
from peerllm.serving.readings import Readings
from tests.support.governed import (
    GIB,
    NOW,
    PAUSE,
    PRESETS,
    QUIET,
    REDUCE,
    RELEASE,
    SHARE,
    SIGNALS,
    UNKNOWN,
    Watched,
    first,
    policy,
)

T = TypeVar("T")


def unknown_or(known: SearchStrategy[T]) -> SearchStrategy[T | None]:
    return st.none() | known


seen = st.builds(
    Readings,
    at=st.just(NOW),
    idle_s=unknown_or(st.sampled_from([0.0, 30.0, 299.0, 300.0, 1e5]) | st.floats(0, 1e6)),
    on_battery=unknown_or(st.booleans()),
    battery=unknown_or(st.floats(0, 1)),
    power_saver=unknown_or(st.booleans()),
    cores=st.integers(1, 64),
    others_cores=unknown_or(st.floats(0, 64)),
    memory_free_bytes=unknown_or(st.sampled_from([0, GIB, 8 * GIB])),
    memory_pressure=unknown_or(st.floats(0, 1)),
    gpu_busy=unknown_or(st.floats(0, 1)),
    disk_free_bytes=unknown_or(st.sampled_from([0, 8 * GIB])),
    too_hot=unknown_or(st.booleans()),
    metered=unknown_or(st.booleans()),
    exclusive=unknown_or(st.sampled_from(["", "game"])),
    lid_closed=unknown_or(st.booleans()),
    suspending=unknown_or(st.booleans()),
    local_minute=st.integers(0, 1439),
)


mostly_quiet = st.sampled_from(
    [
        QUIET,
        QUIET,
        QUIET,
        UNKNOWN,
        *(replace(QUIET, **read) for _, read, _ in SIGNALS),  # type: ignore[arg-type]
    ]
)


steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, 5.0, 60.0, 119.0, 200.0]), mostly_quiet | seen), min_size=1, max_size=25
)


words = st.builds(OwnersWord, st.booleans(), st.booleans(), st.sampled_from([0.0, NOW + 90]))


def shown(rules: Policy, walk: list[tuple[float, Readings]]) -> list[tuple[float, Decision]]:
    state, now, told = GovernorState(), NOW, []
    for seconds, readings in walk:
        now += seconds
        state, decision = decide(state, replace(readings, at=now), rules, now)
        told.append((now, decision))
    return told


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRESETS), words, steps)
def test_never_without_consent_and_never_without_a_reason(
    preset: str, word: OwnersWord, walk: list[tuple[float, Readings]]
) -> None:
    for now, decision in shown(policy(preset, word), walk):
        lends = decision.verdict in (SHARE, REDUCE)
        assert not lends or (word.consented and word.sharing and now >= word.paused_until)
        assert decision.reason.strip()
        assert decision.threads >= 0
        assert lends or decision.threads == 1
        assert bool(decision.held) == (decision.verdict is not SHARE)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRESETS), steps)
def test_a_pause_is_never_later_than_the_reading_that_shows_why(
    preset: str, walk: list[tuple[float, Readings]]
) -> None:
    """Whatever came before: what pauses a governor that remembers nothing pauses one that does."""
    rules = policy(preset)
    for (now, decision), (_, readings) in zip(shown(rules, walk), walk, strict=True):
        if first(replace(readings, at=now), rules, now).verdict in (PAUSE, RELEASE):
            assert decision.verdict in (PAUSE, RELEASE)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["idle", "custom"]), steps)
def test_who_waits_for_the_user_never_lends_before_they_are_long_away(
    preset: str, walk: list[tuple[float, Readings]]
) -> None:
    """Even if their idle time jumps: what was once seen of a key or a pointer is not forgotten."""
    touched_at = float("-inf")
    for (now, decision), (_, readings) in zip(shown(policy(preset), walk), walk, strict=True):
        if readings.idle_s is not None:
            touched_at = max(touched_at, now - readings.idle_s)
        if decision.verdict in (SHARE, REDUCE):
            assert readings.idle_s is not None
            assert now - touched_at >= 300.0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRESETS), steps)
def test_lending_goes_on_only_after_the_wait(preset: str, walk: list[tuple[float, Readings]]) -> None:
    rules = policy(preset)
    settling = {SignalName(name) for name in SignalName} - {SignalName.HOURS, SignalName.OWNER_PAUSE, SignalName.USER}
    last: float | None = None
    for (now, decision), (_, readings) in zip(shown(rules, walk), walk, strict=True):
        alone = first(replace(readings, at=now), rules, now)
        if alone.verdict in (PAUSE, RELEASE) and settling & {SignalName(name) for name in alone.held}:
            last = now
        if decision.verdict in (SHARE, REDUCE) and last is not None:
            assert now - last >= rules.resume_s


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRESETS), words, steps)
def test_same_readings_same_decisions(preset: str, word: OwnersWord, walk: list[tuple[float, Readings]]) -> None:
    assert shown(policy(preset, word), walk) == shown(policy(preset, word), walk)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 64), min_size=1, max_size=40), st.integers(1, 64))
def test_threads_never_exceed_what_is_free_now(loads: list[float], cores: int) -> None:
    watched = Watched(policy("polite"))
    for load in loads:
        threads = watched.sees(5.0, cores=cores, others_cores=load).threads or cores
        assert threads <= max(1, cores - int(load))
