"""Pressure stall information: how long something has waited for processor, memory or disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peerllm.serving.readers.source import Unreadable


@dataclass(frozen=True)
class Pressure:
    """Shares of the last 10 s in which at least one program waited, 0 to 1; None where the kernel does not say."""

    cpu: float | None
    memory: float | None
    io: float | None


def read_pressure(proc: Path) -> Pressure:
    folder = proc / "pressure"
    found = Pressure(*(_some_avg10(folder / name) for name in ("cpu", "memory", "io")))
    if found == Pressure(None, None, None):
        raise Unreadable("no /proc/pressure")
    return found


def some_avg10(text: str) -> float | None:
    """Of "some avg10=13.12 avg60=...", 0 to 1. Source: Documentation/accounting/psi.rst."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            percent = dict(field.split("=", 1) for field in fields).get("avg10")
            return float(percent) / 100 if percent is not None else None
    return None


def _some_avg10(file: Path) -> float | None:
    try:
        return some_avg10(file.read_text())
    except OSError:  # absent, or "Operation not supported" where it is switched off
        return None
