"""How much to lend, when, and of which model: presets as radio groups over the limits that the daemon lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerllm.local.lending import Limit
from peerllm.sizes import format_bytes
from peerllm_tray.actions import SetLimit
from peerllm_tray.menu_entry import Entry, Kind, line, separator, submenu
from peerllm_tray.plain_text import plain

MEMORY, THREADS, POLICY, MODEL = "contribution.memory_bytes", "engine.threads", "guest.policy", "contribution.model"

_SHARES = ((8, "An eighth of it"), (4, "A quarter of it"), (2, "Half of it"))
_POLICIES = {
    "idle": "Only when I am away",
    "polite": "Always, politely",
    "night": "At night",
    "custom": "As the configuration says",
}
_MODELS_SHOWN = 12


Choice = tuple[object, str]
"""A value and what it is called."""


def lend_menu(limits: Mapping[str, Limit], ram_bytes: int, cores: int) -> Entry:
    """The submenu "How much to lend", with the presets of those limits that the daemon lists."""
    memory = _radios(limits.get(MEMORY), _memory_choices(ram_bytes))
    threads = _radios(limits.get(THREADS), _thread_choices(cores))
    policy = _radios(limits.get(POLICY), _policy_choices(limits.get(POLICY)))
    parts = [
        *_part("memory", f"Memory, of {format_bytes(ram_bytes)}", memory),
        *_part("threads", f"Processor, of {_cores(cores)}", threads),
        *_part("policy", "When", policy),
    ]
    return submenu("lend", "How much to lend", *parts[1:], visible=bool(parts))


def model_menu(limits: Mapping[str, Limit], models: Sequence[str]) -> Entry:
    """The submenu that chooses the model whose blocks are served."""
    choices = [(model, plain(model)) for model in models[:_MODELS_SHOWN]]
    radios = _radios(limits.get(MODEL), choices)
    return submenu("model", "Model to serve", *radios, visible=bool(radios))


def _part(key: str, title: str, radios: Sequence[Entry]) -> list[Entry]:
    """Set apart from the one before it."""
    return [separator(f"{key}-begin"), line(f"{key}-title", title), *radios] if radios else []


def _radios(limit: Limit | None, choices: Sequence[Choice]) -> list[Entry]:
    """One is checked: the value that holds has an entry of its own if it is no preset."""
    if limit is None:
        return []
    if limit.value not in [value for value, _ in choices]:
        choices = [*choices, (limit.value, f"As set: {_shown(limit)}")]
    return [
        Entry(f"{limit.key}={value}", label, SetLimit(limit.key, value), Kind.RADIO, checked=value == limit.value)
        for value, label in choices
    ]


def _memory_choices(ram_bytes: int) -> list[Choice]:
    shares = [(ram_bytes // part, f"{label}: {format_bytes(ram_bytes // part)}") for part, label in _SHARES]
    return [(0, "Half of what is free"), *shares]


def _thread_choices(cores: int) -> list[Choice]:
    named = {0: "As many as are fastest"} | {count: _cores(count) for count in (1, cores // 2, cores) if count}
    return list(named.items())


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"


def _policy_choices(limit: Limit | None) -> list[Choice]:
    names = limit.allowed.split(", ") if limit else []
    return [(name, _POLICIES.get(name, plain(name))) for name in names]


def _shown(limit: Limit) -> str:
    return (
        format_bytes(limit.value) if limit.key == MEMORY and isinstance(limit.value, int) else plain(str(limit.value))
    )
