"""What is read of this machine, in words for its owner. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from peerllm.local.lending import Signal
from peerllm.serving.governor import SignalName
from peerllm.serving.readings import Readings
from peerllm.sizes import format_bytes

FIELDS: Final = {
    "idle_s": SignalName.USER,
    "exclusive": SignalName.EXCLUSIVE,
    "others_cores": SignalName.OTHERS,
    "memory_free_bytes": SignalName.MEMORY,
    "memory_pressure": SignalName.MEMORY_PRESSURE,
    "gpu_busy": SignalName.GPU,
    "on_battery": SignalName.BATTERY,
    "power_saver": SignalName.POWER_SAVER,
    "temperature_c": SignalName.TEMPERATURE,
    "metered": SignalName.NETWORK,
    "disk_free_bytes": SignalName.DISK,
    "lid_closed": SignalName.LID,
    "suspending": SignalName.SUSPEND,
}
"""The field of `Readings` that each signal rests on."""

_OWNERS_WORD: Final = {
    SignalName.CONSENT: "not given yet",
    SignalName.SWITCH: "off",
    SignalName.OWNER_PAUSE: "asked for",
}
"""No readings, shown only while they hold lending back."""


def signals(readings: Readings, held: Collection[str]) -> tuple[Signal, ...]:
    """Every signal with its text; `held` names those that hold lending back now."""
    spoken = {name: text for name, text in _OWNERS_WORD.items() if name in held}
    texts = spoken | _texts(readings)
    return tuple(Signal(name.value, text, name in held) for name, text in texts.items())


def format_span(seconds: float) -> str:
    """ "4 s", "12 min", "30 h", "2 d": one unit, rounded down."""
    for unit, unit_s, from_s in (("d", 86400, 172800), ("h", 3600, 3600), ("min", 60, 60)):
        if seconds >= from_s:
            return f"{seconds // unit_s:.0f} {unit}"
    return f"{int(seconds)} s"


def _texts(readings: Readings) -> dict[SignalName, str]:
    known = {
        SignalName.USER: _user(readings),
        SignalName.EXCLUSIVE: "none" if readings.exclusive == "" else readings.exclusive,
        SignalName.OTHERS: _others(readings),
        SignalName.MEMORY: _memory(readings),
        SignalName.MEMORY_PRESSURE: _percent(readings.memory_pressure),
        SignalName.GPU: _gpu(readings),
        SignalName.BATTERY: _battery(readings),
        SignalName.POWER_SAVER: _choose(readings.power_saver, "on", "off"),
        SignalName.TEMPERATURE: _temperature(readings),
        SignalName.NETWORK: _choose(readings.metered, "metered", "not metered"),
        SignalName.DISK: _free(readings.disk_free_bytes),
        SignalName.LID: _choose(readings.lid_closed, "closed", "open"),
        SignalName.SUSPEND: _choose(readings.suspending, "about to sleep", "awake"),
    }
    why = {FIELDS[field]: f"unknown: {reason}" for field, reason in readings.unknown}
    texts = {name: why.get(name, "unknown") if text is None else text for name, text in known.items()}
    return texts | {SignalName.HOURS: f"{readings.local_minute // 60:02}:{readings.local_minute % 60:02}"}


def _user(readings: Readings) -> str | None:
    return None if readings.idle_s is None else f"active {format_span(readings.idle_s)} ago"


def _others(readings: Readings) -> str | None:
    if readings.others_cores is None:
        return None
    return f"use {readings.others_cores:.1f} of {readings.cores} {'core' if readings.cores == 1 else 'cores'}"


def _memory(readings: Readings) -> str | None:
    free = _free(readings.memory_free_bytes)
    if free is None or readings.own_memory_bytes is None:
        return free
    return f"{free}, peerllm holds {format_bytes(readings.own_memory_bytes)}"


def _gpu(readings: Readings) -> str | None:
    if readings.gpu_busy is None:
        return None
    free = _free(readings.gpu_free_bytes)
    return f"others use {_percent(readings.gpu_busy)}{f', {free}' if free else ''}"


def _battery(readings: Readings) -> str | None:
    if readings.on_battery is None:
        return None
    if readings.battery is None:
        return "in use" if readings.on_battery else "none"
    return f"{_percent(readings.battery)}, {_choose(readings.on_battery, 'in use', 'plugged in')}"


def _temperature(readings: Readings) -> str | None:
    if readings.temperature_c is None:
        return None
    return f"{readings.temperature_c:.0f} °C{', too hot' if readings.too_hot else ''}"


def _free(count: int | None) -> str | None:
    return None if count is None else f"{format_bytes(count)} free"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _choose(fact: bool | None, yes: str, no: str) -> str | None:
    return None if fact is None else yes if fact else no
