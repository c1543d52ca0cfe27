"""What the governor can see of this machine, for `peerllm doctor`: which source tells, or why none does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from peerllm.cli.check import Check, ok, warn
from peerllm.guest_config import GuestConfig
from peerllm.serving.policy import policy_from
from peerllm.serving.readers import MachineReader
from peerllm.serving.signals import FIELDS, signals

_LOOK_S = 1.5
"""For drivers, buses and screens to answer."""


def check_readers(models_dir: Path, guest: GuestConfig) -> list[Check]:
    """A line for each source; unknown is fine, except for the idle time where lending waits for it."""
    reader = MachineReader(models_dir=models_dir, programs=guest.programs, delays_sleep=False)
    try:
        readings = reader.read(time.time())
        until_s = time.monotonic() + _LOOK_S
        while time.monotonic() < until_s:
            time.sleep(_LOOK_S / 3)
            readings = reader.read(time.time())
        told = {FIELDS[field]: [each.name for each in asked if not each.why] for field, asked in reader.sources.items()}
    finally:
        reader.close()
    texts = {signal.name: signal.text for signal in signals(readings, ())}
    checks = [ok(f"reads {name}", _detail(texts[name], told.get(name, []))) for name in FIELDS.values()]
    if readings.idle_s is None and policy_from(guest).idle_after_s is not None:
        advice = "guest.policy = polite lends without it, and guest.policy = night by the clock"
        checks[0] = warn(checks[0].name, f"{checks[0].detail}; nothing is lent", advice)
    return checks


def _detail(text: str, sources: Sequence[str]) -> str:
    return f"{text} ({', '.join(dict.fromkeys(sources))})" if sources and not text.startswith("unknown") else text
