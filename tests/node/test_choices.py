"""The owner's choices: kept, checked, stronger than the config file, and a yes once said stays said."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest

from peerllm.choices import (
    CHOSEN,
    LIVE_SETTINGS,
    Choices,
    at_start,
    chosen,
    limits,
    load_choices,
    owners_word,
    paused,
    save_choices,
    set_values,
    switched,
    with_choices,
)
from peerllm.config import Config, ContributionConfig
from peerllm.config_sources import LoadedConfig, load_config
from peerllm.errors import UsageError
from peerllm.locations import Locations
from peerllm.serving.policy import OwnersWord

MADE = Choices(
    consented_at=1_790_000_000.0,
    sharing=True,
    paused_until=1_790_003_600.0,
    values={"guest.policy": "night", "contribution.also": ("qwen3-8b",), "contribution.memory_bytes": 3 << 29},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Locations.of({"PEERLLM_HOME": str(tmp_path)}).choices_file


def loaded(tmp_path: Path, content: str = "", **flags: str) -> LoadedConfig:
    config_file = tmp_path / "config.toml"
    config_file.write_text(content)
    return load_config(config_file, env={}, flags={key.replace("__", "."): text for key, text in flags.items()})


def test_choices_outlast_a_restart_and_are_private(file: Path) -> None:
    assert load_choices(file) == Choices()
    save_choices(file, MADE)
    assert load_choices(file) == MADE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"consented_at": true}',
        b'{"consented_at": "yes"}',
        b'{"consented_at": NaN}',
        b'{"consented_at": 1' + b"0" * 4000 + b"}",
        b'{"sharing": 1}',
        b'{"paused_until": Infinity}',
        b'{"paused_until": -1}',
        b'{"paused_until": null}',
        b'{"values": []}',
    ],
)
def test_damaged_file_is_set_aside_and_means_no_yes(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    assert load_choices(file) == Choices()
    assert file.with_name("choices.json.damaged").read_bytes() == content
    assert not file.exists()
    assert "kept as choices.json.damaged" in caplog.text


def test_a_value_of_another_version_is_dropped_and_the_rest_kept(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = {"guest.policy": "night", "guest.gone": 1, "guest.hours": "25:00-26:00", "api.host": "0.0.0.0"}
    file.parent.mkdir()
    file.write_text(json.dumps({"consented_at": 1.0, "sharing": True, "later": {}, "values": kept}))
    assert load_choices(file) == Choices(1.0, True, 0.0, {"guest.policy": "night"})
    assert caplog.text.count("choice dropped") == 3


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("guest.policy", "idle", "idle"),
        ("guest.idle_after_s", 60, 60.0),
        ("guest.idle_after_s", "10m", 600.0),
        ("guest.hours", "9:00-17:00", "09:00-17:00"),
        ("guest.hours", "", ""),
        ("guest.on_battery", True, True),
        ("guest.on_battery", "on", True),
        ("guest.programs", ["blender", "*.x86_64"], ("blender", "*.x86_64")),
        ("guest.programs", "blender, *.x86_64", ("blender", "*.x86_64")),
        ("guest.upload_bytes_per_s", "2MB", 2_000_000),
        ("contribution.memory_bytes", "1.5GiB", 3 << 29),
        ("engine.threads", "4", 4),
        ("engine.threads", 4, 4),
    ],
)
def test_settings_are_taken_as_values_and_as_typed_text(key: str, value: object, kept: object) -> None:
    assert set_values(Choices(), {key: value}).values == {key: kept}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"guest.policy": "never"}, 'limits: guest.policy = "never" is not allowed; it takes idle, polite, night'),
        ({"guest.hours": "noon"}, "guest.hours: 'noon' are no hours; write for example 22:00-07:00"),
        ({"guest.min_battery": 2}, "0 to 1"),
        ({"guest.min_battery": math.nan}, "0 to 1"),
        ({"contribution.slots": True}, "1 to 255"),
        ({"contribution.slots": 1e300}, "1 to 255"),
        ({"contribution.memory_bytes": {"a": 1}}, "a size such as 1.5GiB"),
        ({"guest.resume": 1}, "there is no guest.resume; did you mean guest.resume_s"),
        ({"api.host": "0.0.0.0"}, "api.host is read at the start only"),
        ({"contribution.enabled": True}, "read at the start only"),
    ],
)
def test_what_is_not_allowed_changes_nothing(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        set_values(MADE, {"guest.resume_s": 5, **values})
    assert said in str(caught.value)


def test_none_goes_back_to_what_the_config_says() -> None:
    assert set_values(MADE, {"guest.policy": None, "guest.hours": None}).values == {
        "contribution.also": ("qwen3-8b",),
        "contribution.memory_bytes": 3 << 29,
    }


def test_a_choice_outranks_the_config() -> None:
    config = with_choices(Config(contribution=ContributionConfig(max_blocks=7)), MADE)
    assert config.guest.policy == "night"
    assert config.contribution == ContributionConfig(
        enabled=True, max_blocks=7, also=("qwen3-8b",), memory_bytes=3 << 29
    )
    assert with_choices(Config(), Choices()) == Config()


def test_limits_say_what_counts_and_where_it_is_from(tmp_path: Path) -> None:
    read = loaded(tmp_path, '[guest]\nresume_s = 5\npolicy = "idle"\n')
    rows = {limit.key: limit for limit in limits(read.config, MADE, read.sources)}
    assert tuple(rows) == LIVE_SETTINGS
    told = {key: (rows[key].value, rows[key].default, rows[key].source) for key in rows}
    assert told["guest.policy"] == ("night", "polite", "choice")
    assert told["guest.resume_s"] == (5.0, 120.0, "config")
    assert told["guest.release_s"] == (300.0, 300.0, "default")
    assert rows["guest.policy"].allowed == "idle, polite, night, custom"
    assert all(limit.about for limit in rows.values())


def test_config_shows_what_counts_and_where_it_is_from(tmp_path: Path) -> None:
    read = chosen(loaded(tmp_path, '[guest]\npolicy = "idle"\n'), MADE)
    assert read.config.guest.policy == "night"
    assert {key for key, source in read.sources.items() if source == CHOSEN} == {*MADE.values, "contribution.enabled"}


def test_no_address_key_or_folder_can_be_chosen() -> None:
    assert {key.partition(".")[0] for key in LIVE_SETTINGS} == {"contribution", "engine", "guest"}


@pytest.mark.parametrize(
    ("enabled", "choices", "word"),
    [
        (False, Choices(), OwnersWord(False, False)),
        (True, Choices(), OwnersWord(True, True)),
        (True, Choices(sharing=False), OwnersWord(True, False)),
        (False, Choices(consented_at=1.0), OwnersWord(True, False)),
        (False, Choices(sharing=True), OwnersWord(False, True)),
        (False, MADE, OwnersWord(True, True, MADE.paused_until)),
    ],
)
def test_yes_is_said_in_the_config_or_once_and_for_all(enabled: bool, choices: Choices, word: OwnersWord) -> None:
    assert owners_word(Config(contribution=ContributionConfig(enabled=enabled)), choices) == word


def test_switching_on_is_a_yes_that_switching_off_does_not_take_back() -> None:
    on = switched(Choices(paused_until=9e9), True, 5.0)
    assert on == Choices(consented_at=5.0, sharing=True)
    off = switched(on, False, 6.0)
    assert (off.consented_at, off.sharing) == (5.0, False)
    assert switched(off, True, 7.0).consented_at == 5.0


def test_a_pause_is_until_a_time() -> None:
    assert paused(Choices(), 1_790_000_000.0).paused_until == 1_790_000_000.0
    assert paused(MADE, 0.0).paused_until == 0.0
    for until in (math.nan, math.inf, -1.0, 1_790_000_000_000.0):
        with pytest.raises(UsageError, match="Unix time"):
            paused(Choices(), until)


def test_flags_of_this_start_are_newer_than_choices_and_the_file_is_not(tmp_path: Path) -> None:
    off = Choices(consented_at=1.0, sharing=False, values={"guest.policy": "night", "engine.threads": 2})
    from_file = loaded(tmp_path, '[contribution]\nenabled = true\n[guest]\npolicy = "idle"\n')
    assert at_start(off, from_file, 5.0) == off
    by_flags = loaded(tmp_path, contribution__enabled="true", guest__policy="idle")
    assert at_start(off, by_flags, 5.0) == Choices(1.0, None, 0.0, {"engine.threads": 2})


def test_enabled_in_the_config_is_remembered_as_a_yes(tmp_path: Path) -> None:
    assert at_start(Choices(), loaded(tmp_path), 5.0).consented_at is None
    assert at_start(Choices(), loaded(tmp_path, "[contribution]\nenabled = true\n"), 5.0).consented_at == 5.0
