"""Temperatures, and whether one of them is too high."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from peerllm.serving.readers.source import Unreadable

_SANE_C = (1.0, 150.0)
"""Some sensors say 0 or 65261.8 for "unknown", as a temperature or as a limit."""

_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")


class Sensor(Protocol):
    """As psutil names them."""

    @property
    def current(self) -> float: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class Heat:
    """`too_hot` is None where no sensor has a limit of its own."""

    too_hot: bool | None
    temperature_c: float


def read_heat() -> Heat:
    if not hasattr(psutil, "sensors_temperatures"):
        raise Unreadable("this system tells programs no temperature")
    return judge(psutil.sensors_temperatures())


def judge(sensors: Mapping[str, Sequence[Sensor]]) -> Heat:
    """The processor's temperature, or the highest if none is known as the processor's; any sensor can be too hot."""
    known = {chip: [sensor for sensor in of_chip if _sane(sensor.current)] for chip, of_chip in sensors.items()}
    everything = [sensor for of_chip in known.values() for sensor in of_chip]
    if not everything:
        raise Unreadable("no temperature sensor")
    limits = [(sensor.current, sensor.high) for sensor in everything if sensor.high is not None and _sane(sensor.high)]
    processor = [sensor for chip in _PROCESSORS for sensor in known.get(chip, ())]
    return Heat(any(current >= high for current, high in limits) if limits else None, _highest(processor or everything))


def _highest(sensors: Iterable[Sensor]) -> float:
    return max(sensor.current for sensor in sensors)


def _sane(celsius: float) -> bool:
    return _SANE_C[0] <= celsius <= _SANE_C[1]
