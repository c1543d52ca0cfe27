"""Readings in words."""

from __future__ import annotations

import pytest

from peerllm.serving.governor import SignalName
from peerllm.serving.readings import Readings
from peerllm.serving.signals import format_span, signals

GIB = 1 << 30


def texts(readings: Readings, held: tuple[str, ...] = ()) -> dict[str, str]:
    return {signal.name: signal.text for signal in signals(readings, held)}


def test_what_is_known_is_said_with_its_unit() -> None:
    readings = Readings(
        at=0.0,
        idle_s=4.2,
        on_battery=True,
        battery=0.73,
        power_saver=False,
        cores=8,
        others_cores=1.25,
        memory_free_bytes=int(3.2 * GIB),
        own_memory_bytes=2 * GIB,
        memory_pressure=0.031,
        gpu_busy=0.4,
        gpu_free_bytes=6 * GIB,
        disk_free_bytes=40 * GIB,
        too_hot=True,
        temperature_c=96.4,
        metered=True,
        exclusive="Some Game",
        lid_closed=False,
        suspending=False,
        local_minute=17 * 60 + 5,
    )
    assert texts(readings) == {
        "user": "active 4 s ago",
        "exclusive program": "Some Game",
        "other programs": "use 1.2 of 8 cores",
        "memory": "3.20 GiB free, peerllm holds 2.00 GiB",
        "memory pressure": "3%",
        "gpu": "others use 40%, 6.00 GiB free",
        "battery": "73%, in use",
        "power saver": "off",
        "temperature": "96 °C, too hot",
        "network": "metered",
        "disk": "40.0 GiB free",
        "hours": "17:05",
        "lid": "open",
        "suspend": "awake",
    }


def test_what_is_unknown_is_said_with_its_reason() -> None:
    readings = Readings(at=0.0, on_battery=False, unknown=(("idle_s", "no X server, no logind"),))
    assert texts(readings)["user"] == "unknown: no X server, no logind"
    assert texts(readings)["lid"] == "unknown"
    assert texts(readings)["battery"] == "none"


def test_held_signals_are_marked_and_every_name_has_a_text() -> None:
    found = signals(Readings(at=0.0, idle_s=1.0), tuple(SignalName))
    assert {signal.name for signal in found} == set(SignalName)
    assert all(signal.held and signal.text for signal in found)
    held = [signal.name for signal in signals(Readings(at=0.0, idle_s=1.0), ("user",)) if signal.held]
    assert held == ["user"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (61, "1 min"), (3599, "59 min"), (7200, "2 h"), (100_000, "27 h"), (260_000, "3 d")],
)
def test_spans_are_rounded_down(seconds: float, text: str) -> None:
    assert format_span(seconds) == text
