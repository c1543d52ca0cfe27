"""The presets, and what becomes of the owner's own settings in each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from peerllm.config_sources import load_config
from peerllm.errors import UsageError
from peerllm.guest_config import GuestConfig
from peerllm.hours import Hours, parse_hours
from peerllm.serving.policy import NEVER, OwnersWord, policy_from

NIGHT = Hours(22 * 60, 7 * 60)

WRITTEN = {
    "idle_after_s": 60.0,
    "on_battery": True,
    "min_battery": 0.3,
    "power_saver": True,
    "metered": True,
    "hours": "12:00-13:00",
    "most_others_cores": 0.7,
    "most_others_gpu": 0.4,
    "reserve_bytes": 5,
    "disk_reserve_bytes": 6,
    "resume_s": 7.0,
    "release_s": 8.0,
}


@pytest.mark.parametrize(
    ("name", "idle_after_s", "hours", "most_others_cores", "most_others_gpu"),
    [
        ("idle", 300.0, None, 0.5, 0.2),
        ("polite", None, None, NEVER, NEVER),
        ("night", None, NIGHT, NEVER, NEVER),
        ("custom", 300.0, NIGHT, 0.5, 0.2),
    ],
)
def test_presets_without_a_word_of_the_owner(
    name: str, idle_after_s: float | None, hours: Hours | None, most_others_cores: float, most_others_gpu: float
) -> None:
    policy = policy_from(GuestConfig(policy=name))
    assert (policy.name, policy.idle_after_s, policy.hours) == (name, idle_after_s, hours)
    assert (policy.most_others_cores, policy.most_others_gpu) == (most_others_cores, most_others_gpu)
    assert not any((policy.on_battery, policy.power_saver, policy.metered))
    assert (policy.resume_s, policy.release_s, policy.reserve_bytes) == (120.0, 300.0, 1 << 30)


@pytest.mark.parametrize("name", ["idle", "polite", "night"])
def test_presets_never_lend_on_battery_or_a_paid_network(name: str) -> None:
    policy = policy_from(GuestConfig(policy=name, **WRITTEN))
    assert not any((policy.on_battery, policy.power_saver, policy.metered))
    assert (policy.resume_s, policy.release_s, policy.reserve_bytes, policy.disk_reserve_bytes) == (7.0, 8.0, 5, 6)


def test_custom_is_as_its_owner_wrote_it() -> None:
    policy = policy_from(GuestConfig(policy="custom", **WRITTEN))
    assert policy.hours == Hours(720, 780)
    assert {name: getattr(policy, name) for name in WRITTEN if name != "hours"} == {
        name: value for name, value in WRITTEN.items() if name != "hours"
    }
    beside = policy_from(GuestConfig(policy="custom", idle_after_s=0.0, hours=""))
    assert (beside.idle_after_s, beside.hours) == (None, None)


def test_polite_looks_at_the_gpu_where_it_computes_there() -> None:
    assert policy_from(GuestConfig(), on_gpu=True).most_others_gpu == 0.2
    assert policy_from(GuestConfig(), on_gpu=False).most_others_gpu == NEVER


def test_a_word_that_is_no_time_is_refused() -> None:
    for until in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no time"):
            OwnersWord(paused_until=until)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-07:00", (1320, 1439, 0, 419), (420, 720, 1319)),
        ("9:30 - 17:00", (570, 1019), (569, 1020, 0, 1439)),
        ("00:00-00:01", (0,), (1, 1439)),
    ],
)
def test_hours_are_from_a_minute_until_another(text: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    hours = Hours.parse(text)
    assert all(minute in hours for minute in inside)
    assert not any(minute in hours for minute in outside)
    assert Hours.parse(str(hours)) == hours


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("22-7", "write for example 22:00-07:00"),
        ("24:00-07:00", "there is no 24:00"),
        ("22:00-07:60", "there is no 07:60"),
        ("07:00-07:00", "begin when they end"),
        ("٢٢:00-07:00", "are no hours"),
        ("x" * 10_000, "are no hours"),
    ],
)
def test_what_are_no_hours_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_config(tmp_path / "config.toml", env={}, flags={"guest.hours": text})
    assert "guest.hours" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_hours_are_kept_in_one_form() -> None:
    assert (parse_hours(" 9:30 -17:00 "), parse_hours("  ")) == ("09:30-17:00", "")
