"""The governor: every signal under every preset, what it remembers from reading to reading, and what never happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerllm.guest_config import GuestConfig
from peerllm.serving.governor import Decision, SignalName, Verdict
from peerllm.serving.objections import duration
from peerllm.serving.policy import OwnersWord, policy_from
from peerllm.serving.thread_room import MORE_EVERY_S
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
    YES,
    Watched,
    first,
    policy,
)


def test_a_quiet_machine_shares_under_every_preset() -> None:
    for name in PRESETS:
        decision = first(QUIET, policy(name))
        assert decision == Decision(SHARE, "sharing: nobody else needs this computer")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("name", "read", "verdicts"), SIGNALS, ids=lambda each: str(each))
def test_every_signal_under_every_preset(
    name: SignalName, read: dict[str, object], verdicts: tuple[Verdict, ...], preset: str
) -> None:
    decision = first(replace(QUIET, **read), policy(preset))  # type: ignore[arg-type]
    assert decision.verdict is verdicts[PRESETS.index(preset)]
    assert (name in decision.held) == (decision.verdict is not SHARE)
    assert (decision.threads == 0) == (decision.verdict is SHARE)


@pytest.mark.parametrize(
    ("word", "name", "reason"),
    [
        (OwnersWord(sharing=True), SignalName.CONSENT, "off: lending was never agreed to; say yes"),
        (OwnersWord(consented=True), SignalName.SWITCH, "off: lending is switched off"),
        (OwnersWord(True, True, NOW + 1800), SignalName.OWNER_PAUSE, "paused: you asked for a pause; goes on at 01:30"),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_owner_s_word_counts_under_every_preset(preset: str, word: OwnersWord, name: str, reason: str) -> None:
    decision = first(QUIET, policy(preset, word))
    assert decision.verdict is (PAUSE if word.paused_until else RELEASE)
    assert decision.held == (name,)
    assert decision.reason.startswith(reason)


@pytest.mark.parametrize(
    ("read", "written", "verdict"),
    [
        ({"on_battery": True, "battery": 0.6}, {"on_battery": True}, SHARE),
        ({"on_battery": True, "battery": 0.4}, {"on_battery": True}, PAUSE),
        ({"on_battery": True, "battery": None}, {"on_battery": True}, PAUSE),
        ({"on_battery": True, "battery": None}, {"on_battery": True, "min_battery": 0.0}, SHARE),
        ({"on_battery": False, "battery": 0.1}, {"on_battery": True}, SHARE),
        ({"power_saver": True}, {"power_saver": True}, SHARE),
        ({"metered": True}, {"metered": True}, SHARE),
        ({"local_minute": 12 * 60}, {"hours": ""}, SHARE),
        ({"local_minute": 12 * 60}, {"hours": "12:00-13:00"}, SHARE),
        ({"idle_s": 100.0}, {"idle_after_s": 90.0}, SHARE),
        ({"idle_s": None}, {"idle_after_s": 0.0}, SHARE),
        ({"idle_s": 0.0}, {"idle_after_s": 0.0}, REDUCE),
        ({"others_cores": 7.9}, {"most_others_cores": 1.0}, REDUCE),
        ({"gpu_busy": 1.0}, {"most_others_gpu": 1.0}, SHARE),
        ({"memory_free_bytes": 3 * GIB}, {"reserve_bytes": 8 * GIB}, RELEASE),
        ({"disk_free_bytes": 0}, {"disk_reserve_bytes": 0}, SHARE),
    ],
)
def test_custom_does_as_its_owner_wrote(read: dict[str, object], written: dict[str, object], verdict: Verdict) -> None:
    assert first(replace(QUIET, **read), policy("custom", **written)).verdict is verdict  # type: ignore[arg-type]


def test_gpu_of_others_pauses_what_computes_on_it() -> None:
    rules = policy_from(GuestConfig(), YES, on_gpu=True)
    assert first(replace(QUIET, gpu_busy=0.5), rules).verdict is PAUSE


def test_unknown_is_no_trigger_and_no_good_news() -> None:
    for name in ("polite", "night"):
        decision = first(UNKNOWN, policy(name))
        assert decision.verdict is REDUCE
        assert decision.threads == 1
        assert decision.reason == "sharing less, with 1 of 8 cores: what other programs use cannot be read"
    for name in ("idle", "custom"):
        decision = first(UNKNOWN, policy(name))
        assert decision.verdict is PAUSE
        assert "cannot be read here" in decision.reason


@pytest.mark.parametrize(
    ("preset", "read", "reason"),
    [
        (
            "idle",
            {"idle_s": 3.0},
            "paused: you are using this computer; goes on after 5 minutes without a key or a pointer",
        ),
        ("polite", {"on_battery": True}, "paused: this computer runs on battery; goes on after 2 minutes on mains"),
        (
            "polite",
            {"memory_free_bytes": 0},
            "paused, memory given back: little memory is free; goes on after 2 minutes with 512 MiB",
        ),
        (
            "polite",
            {"idle_s": 3.0},
            "sharing less, with 7 of 8 cores: one is left to you, as you are using this computer",
        ),
        ("polite", {"others_cores": 2.5}, "sharing less, with 5 of 8 cores: the others are left to your programs"),
        ("night", {"local_minute": 720}, "paused: lending is for 22:00-07:00; goes on at 22:00"),
        ("polite", {"exclusive": "a\x1b[2J\n" * 30}, "paused: " + "a[2J" * 10 + " wants this computer for itself;"),
    ],
)
def test_reason_is_a_sentence_for_the_owner(preset: str, read: dict[str, object], reason: str) -> None:
    assert first(replace(QUIET, **read), policy(preset)).reason.startswith(reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hours", "said"),
    [(0.5, "at 01:30"), (22.9, "at 23:54"), (23.0, "tomorrow at 00:00"), (72.0, "in 3 days at 01:00")],
)
def test_end_of_a_pause_is_told_by_the_clock(hours: float, said: str) -> None:
    decision = first(QUIET, policy("polite", replace(YES, paused_until=NOW + 3600 * hours)))
    assert decision.reason == f"paused: you asked for a pause; goes on {said}"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "a second"),
        (2.5, "2 seconds"),
        (60.0, "1 minute"),
        (90.0, "90 seconds"),
        (120.0, "2 minutes"),
        (3600.0, "1 hour"),
        (5400.0, "90 minutes"),
    ],
)
def test_times_are_told_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_of_several_the_strongest_is_told_and_all_are_named() -> None:
    decision = first(replace(QUIET, on_battery=True, memory_free_bytes=0, metered=True), policy("polite"))
    assert "little memory is free" in decision.reason
    assert decision.held == (SignalName.MEMORY, SignalName.BATTERY, SignalName.NETWORK)


def test_pause_at_once_and_resume_after_a_while_without_the_cause() -> None:
    watched = Watched(policy("polite"))
    assert watched.sees().verdict is SHARE
    assert watched.sees(on_battery=True).verdict is PAUSE
    paused = watched.sees()
    assert paused.verdict is PAUSE
    assert paused.held == (SignalName.BATTERY,)
    assert watched.sees(118.9).verdict is PAUSE
    assert watched.sees(0.2).verdict is SHARE


def test_a_cause_that_comes_back_begins_the_wait_anew() -> None:
    watched = Watched(policy("polite", release_s=1e6))
    watched.sees(metered=True)
    watched.sees(119.0, metered=True)
    assert watched.sees(119.0).verdict is PAUSE
    assert watched.sees(2.0).verdict is SHARE


def test_idle_waits_for_the_idle_time_itself() -> None:
    watched = Watched(policy("idle"))
    assert watched.sees().verdict is SHARE
    assert watched.sees(idle_s=0.0).verdict is PAUSE
    assert watched.sees(299.0, idle_s=299.0).verdict is PAUSE
    assert watched.sees(2.0, idle_s=301.0).verdict is not PAUSE


def test_an_idle_time_that_jumps_up_is_not_believed() -> None:
    watched = Watched(policy("idle", release_s=1e6))
    watched.sees(idle_s=0.0)
    assert [watched.sees(idle_s=9999.0).verdict for _ in range(299)] == [PAUSE] * 299
    assert watched.sees(idle_s=9999.0).verdict is SHARE


def test_idle_time_that_is_unknown_for_a_moment_waits_like_any_other_cause() -> None:
    watched = Watched(policy("idle"))
    assert watched.sees(idle_s=None).verdict is PAUSE
    assert watched.sees(119.0).verdict is PAUSE
    assert watched.sees(1.0).verdict is SHARE


def test_memory_is_given_back_after_a_long_pause_and_taken_again_after_it() -> None:
    watched = Watched(policy("polite"))
    assert watched.sees(on_battery=True).verdict is PAUSE
    assert watched.sees(299.0, on_battery=True).verdict is PAUSE
    released = watched.sees(1.0, on_battery=True)
    assert released.verdict is RELEASE
    assert released.reason.startswith("paused, memory given back: this computer runs on battery")
    assert watched.sees(60.0).verdict is RELEASE
    assert watched.sees(60.0).verdict is SHARE


def test_what_was_released_stays_so_until_lending_goes_on() -> None:
    watched = Watched(policy("polite"))
    assert watched.sees(memory_pressure=1.0).verdict is RELEASE
    assert watched.sees(119.0, on_battery=True).verdict is RELEASE
    assert watched.sees(119.0).verdict is RELEASE
    assert watched.sees(1.0).verdict is SHARE


def test_the_owner_s_own_pause_ends_when_it_was_said_to() -> None:
    watched = Watched(policy("polite", replace(YES, paused_until=NOW + 100)))
    assert watched.sees().verdict is PAUSE
    assert watched.sees(98.5).verdict is PAUSE
    assert watched.sees(1.0).verdict is SHARE


def test_lending_goes_on_with_the_first_minute_of_its_hours() -> None:
    watched = Watched(policy("night"))
    assert watched.sees(local_minute=21 * 60 + 59).verdict is PAUSE
    assert watched.sees(local_minute=22 * 60).verdict is SHARE


def test_another_word_of_the_owner_ends_all_waiting_but_no_cause() -> None:
    watched = Watched(policy("idle"))
    watched.sees(idle_s=0.0, on_battery=True)
    watched.rules = policy("polite")
    assert watched.sees(idle_s=1.0).verdict is REDUCE
    watched.rules = policy("custom", on_battery=False)
    assert watched.sees(idle_s=2.0, on_battery=True).held == (SignalName.USER, SignalName.BATTERY)


def test_switched_on_again_beside_a_cause_loads_nothing() -> None:
    watched = Watched(policy("polite", OwnersWord(consented=True)))
    assert watched.sees().verdict is RELEASE
    watched.rules = policy("polite")
    assert watched.sees(on_battery=True).verdict is RELEASE
    assert watched.sees(120.0).verdict is SHARE


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    watched = Watched(policy("polite"))
    watched.sees(on_battery=True)
    watched.sees(-86400.0)
    assert watched.sees(121.0).verdict is SHARE
    assert watched.state.since == watched.now


def test_a_clock_that_is_set_back_does_not_keep_memory_for_longer() -> None:
    watched = Watched(policy("polite"))
    watched.sees(on_battery=True)
    watched.sees(-86400.0, on_battery=True)
    assert watched.sees(300.0, on_battery=True).verdict is RELEASE


def test_since_is_when_the_verdict_became_what_it_is() -> None:
    watched = Watched(policy("polite"))
    watched.sees(on_battery=True)
    began = watched.now
    watched.sees(metered=True)
    assert watched.state.since == began


def test_threads_go_at_once_and_come_back_step_by_step() -> None:
    watched = Watched(policy("polite"))
    assert watched.sees().threads == 0
    assert watched.sees(others_cores=2.0).threads == 6
    assert watched.sees(others_cores=7.5).threads == 1
    threads = [watched.sees(MORE_EVERY_S).threads for _ in range(8)]
    assert threads == [1, 2, 3, 4, 5, 6, 7, 0]


def test_a_moment_of_rest_gives_no_thread_back() -> None:
    watched = Watched(policy("polite"))
    watched.sees(others_cores=4.0)
    for _ in range(20):
        assert watched.sees(MORE_EVERY_S - 1).threads == 4
        assert watched.sees(1.0, others_cores=4.0).threads == 4
    assert watched.sees(30.0, others_cores=None).threads == 4


@pytest.mark.parametrize(
    ("cores", "others", "user", "threads"),
    [
        (1, 0.1, False, 0),
        (1, 1.0, False, 1),
        (1, 0.0, True, 1),
        (2, 0.2, False, 0),
        (2, 0.3, False, 1),
        (2, 1.0, False, 1),
        (2, 2.0, False, 1),
        (2, 9.9, False, 1),
        (2, -1.0, False, 0),
        (4, 1.2, False, 3),
        (4, 1.3, False, 2),
        (4, 0.0, True, 3),
        (4, 1.0, True, 3),
        (4, 2.0, True, 2),
        (16, 0.05, False, 0),
        (16, 0.5, False, 15),
    ],
)
def test_engine_gets_the_cores_that_nobody_else_wants(cores: int, others: float, user: bool, threads: int) -> None:
    readings = replace(QUIET, cores=cores, others_cores=others, idle_s=0.0 if user else 3600.0)
    decision = first(readings, policy("polite"))
    assert decision.threads == threads
    assert (decision.verdict is SHARE) == (threads == 0)
