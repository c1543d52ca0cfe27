"""What the owner chose in tray, TUI and command line: kept apart from the owner's config file, which it outranks."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from peerllm.atomic_write import write_atomically
from peerllm.config import Config
from peerllm.config_sources import LoadedConfig, known_setting
from peerllm.errors import UsageError
from peerllm.guest_config import GuestConfig
from peerllm.local.lending import Limit
from peerllm.serving.policy import OwnersWord
from peerllm.settings import Setting, Value

log = logging.getLogger(__name__)

LIVE_SETTINGS = (
    "contribution.memory_bytes",
    "contribution.max_blocks",
    "contribution.model",
    "contribution.also",
    "contribution.slots",
    "engine.threads",
    *(f"guest.{item.name}" for item in fields(GuestConfig)),
)
"""What may be chosen while the daemon runs. No address, key or folder is: what reads the local API's token can set
these, and should not be able to open the machine to others."""

CHOSEN = "a choice in tray or chat"
"""Where a value is from, beside the sources of `load_config`."""

_MAX_FILE_BYTES = 1 << 20
_SWITCH_KEY = "contribution.enabled"


@dataclass(frozen=True)
class Choices:
    """`consented_at` is when the owner first said yes (Unix time), None before; `sharing` is None where only the
    config has a say; `paused_until` is 0 or when a pause ends; `values` are those of `LIVE_SETTINGS` by key."""

    consented_at: float | None = None
    sharing: bool | None = None
    paused_until: float = 0.0
    values: Mapping[str, Value] = field(default_factory=dict[str, Value])


def load_choices(file: Path) -> Choices:
    """What is kept; nothing is chosen where there is no file, or a damaged one, which is set aside."""
    try:
        with file.open("rb") as opened:
            return _choices(json.loads(opened.read(_MAX_FILE_BYTES)))
    except FileNotFoundError:
        return Choices()
    except OSError as error:
        log.warning("choices not read file=%s: %s", file, error)
        return Choices()
    except (ValueError, RecursionError) as error:
        aside = file.with_name(f"{file.name}.damaged")
        log.error("choices lost, file=%s is damaged and kept as %s: %s", file, aside.name, error)
        file.replace(aside)
        return Choices()


def save_choices(file: Path, choices: Choices) -> None:
    """Raises `OSError` if they cannot be kept."""
    kept = {item.name: getattr(choices, item.name) for item in fields(choices)} | {"values": dict(choices.values)}
    write_atomically(file, json.dumps(kept, indent=1).encode(), durable=True, alone=True, mode=0o600)


def at_start(choices: Choices, loaded: LoadedConfig, now: float) -> Choices:
    """What still counts when a daemon starts: flags given to it are newer words of the owner than kept choices.

    An owner who wrote or gave ``contribution.enabled = true`` has said yes.
    """
    flagged = {key for key, source in loaded.sources.items() if source == "command line"}
    values = {key: value for key, value in choices.values.items() if key not in flagged}
    choices = replace(choices, values=values, sharing=None if _SWITCH_KEY in flagged else choices.sharing)
    agreed = loaded.config.contribution.enabled and choices.consented_at is None
    return replace(choices, consented_at=now) if agreed else choices


def switched(choices: Choices, on: bool, now: float) -> Choices:
    """After the owner said to lend, which is a yes once and for all and ends a pause, or not to."""
    if not on:
        return replace(choices, sharing=False)
    consented_at = now if choices.consented_at is None else choices.consented_at
    return replace(choices, sharing=True, consented_at=consented_at, paused_until=0.0)


def paused(choices: Choices, until: float) -> Choices:
    """After the owner asked for a pause, or with 0 for its end; raises `UsageError` for what is no time."""
    if not (math.isfinite(until) and 0 <= until < _END_OF_TIME):
        raise UsageError(f"a pause cannot last until {until}; give a Unix time, or 0 to end it")
    return replace(choices, paused_until=until)


def set_values(choices: Choices, values: Mapping[str, object]) -> Choices:
    """After the owner set some of `LIVE_SETTINGS`, all of them or none; None goes back to what the config says.

    Raises:
        UsageError: no such setting, one that is read at the start only, or a value that is not allowed.
    """
    kept = dict(choices.values)
    for key, value in values.items():
        setting = _live(key)
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = _checked(setting, value)
    return replace(choices, values=kept)


def with_choices(config: Config, choices: Choices) -> Config:
    """The config that counts: choices outrank whatever else it was made of."""
    sharing = {} if choices.sharing is None else {_SWITCH_KEY: choices.sharing}
    for key, value in {**choices.values, **sharing}.items():
        section, _, name = key.partition(".")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


def chosen(loaded: LoadedConfig, choices: Choices) -> LoadedConfig:
    """The config that counts, for people: with where each value is from."""
    keys = [*choices.values, *([] if choices.sharing is None else [_SWITCH_KEY])]
    return LoadedConfig(with_choices(loaded.config, choices), {**loaded.sources, **dict.fromkeys(keys, CHOSEN)})


def owners_word(config: Config, choices: Choices) -> OwnersWord:
    """What the governor is to know of both; `config` is the one without the choices."""
    enabled = config.contribution.enabled
    sharing = enabled if choices.sharing is None else choices.sharing
    return OwnersWord(enabled or choices.consented_at is not None, sharing, choices.paused_until)


def limits(config: Config, choices: Choices, sources: Mapping[str, str]) -> list[Limit]:
    """All `LIVE_SETTINGS` as they count now; `config` and `sources` are without the choices."""
    counting = with_choices(config, choices)
    return [_limit(known_setting(key, "limits"), counting, choices, sources) for key in LIVE_SETTINGS]


_END_OF_TIME = 1e11  # in the year 5138: beyond it a number of seconds is a mistake, such as milliseconds


def _limit(setting: Setting, config: Config, choices: Choices, sources: Mapping[str, str]) -> Limit:
    from_config = sources.get(setting.key, "default") != "default"
    return Limit(
        key=setting.key,
        value=getattr(getattr(config, setting.section), setting.name),
        default=setting.default,
        allowed=setting.rule.allowed,
        about=setting.about,
        source="choice" if setting.key in choices.values else "config" if from_config else "default",
    )


def _live(key: str) -> Setting:
    setting = known_setting(key, "limits")
    if key not in LIVE_SETTINGS:
        raise UsageError(f"limits: {key} is read at the start only; `peerllm config set {key} VALUE` changes it")
    return setting


def _checked(setting: Setting, value: object) -> Value:
    """The value, also from the text that somebody typed for it."""
    if isinstance(value, str):
        return setting.from_text(value, "limits")
    return setting.check(value, "limits")


def _choices(found: object) -> Choices:
    """From what a file holds; raises `ValueError` for anything but choices."""
    if not isinstance(found, dict):
        raise ValueError("no object")
    kept = cast("dict[str, Any]", found)
    consented_at, sharing, values = kept.get("consented_at"), kept.get("sharing"), kept.get("values", {})
    if not isinstance(sharing, bool | None) or not isinstance(values, dict):
        raise ValueError("sharing or values are of another type")
    return Choices(
        consented_at=None if consented_at is None else _time(consented_at),
        sharing=sharing,
        paused_until=_time(kept.get("paused_until", 0.0)),
        values=_still_allowed(cast("dict[str, object]", values)),
    )


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _END_OF_TIME:
        raise ValueError(f"{value!r:.40} is no time")
    return float(value)


def _still_allowed(values: Mapping[str, object]) -> dict[str, Value]:
    """Those that this version knows and admits: a later or earlier one may have written them."""
    kept: dict[str, Value] = {}
    for key, value in values.items():
        try:
            kept[key] = _live(key).check(value, "choices")
        except UsageError as error:
            log.warning("choice dropped: %s", error)
    return kept
