"""Whether this machine runs on its battery."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from peerllm.serving.readers.source import Unreadable


@dataclass(frozen=True)
class Battery:
    """`charge` is 0 to 1, None without a battery."""

    on_battery: bool
    charge: float | None


def read_battery(sys_files: Path) -> Battery:
    if sys.platform == "linux":
        return read_power_supplies(sys_files / "class" / "power_supply")
    found = psutil.sensors_battery()
    if found is None:
        return Battery(on_battery=False, charge=None)
    if found.power_plugged is None:
        raise Unreadable("the system does not say whether it is plugged in")
    return Battery(on_battery=not found.power_plugged, charge=found.percent / 100)


def read_power_supplies(folder: Path) -> Battery:
    """By the rule of systemd's `on_ac_power`: an adapter that is online, or nothing that discharges.

    psutil takes the battery of a wireless mouse for the machine's.
    """
    try:
        supplies = [_facts(supply) for supply in sorted(folder.iterdir())]
    except OSError as error:
        raise Unreadable("no /sys/class/power_supply") from error
    batteries = [
        facts
        for facts in supplies
        if facts.get("type") in ("Battery", "UPS") and facts.get("scope") != "Device" and facts.get("present") != "0"
    ]
    plugged = any(facts.get("type") in ("Mains", "USB") and facts.get("online") == "1" for facts in supplies)
    discharging = any(facts.get("status") == "Discharging" for facts in batteries)
    charges = [int(facts["capacity"]) / 100 for facts in batteries if facts.get("capacity", "").isdecimal()]
    return Battery(discharging and not plugged, sum(charges) / len(charges) if charges else None)


def _facts(supply: Path) -> dict[str, str]:
    """What one supply says of itself; drivers leave out what they do not know."""
    facts = {}
    for name in ("type", "scope", "present", "online", "status", "capacity"):
        try:
            facts[name] = (supply / name).read_text().strip()
        except OSError:
            continue
    return facts
