"""What the governor says of this machine: the words that the rest of the daemon knows it by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What is done with the machine now. A pause keeps the weights that are loaded, and loads none; a release gives
    them back."""

    SHARE = "share"
    REDUCE = "reduce"
    PAUSE = "pause"
    RELEASE = "release"


class SignalName(StrEnum):
    """What can hold lending back, in the order in which it is told: the owner's word before the machine's state."""

    CONSENT = "consent"
    SWITCH = "switch"
    OWNER_PAUSE = "owner's pause"
    HOURS = "hours"
    SUSPEND = "suspend"
    LID = "lid"
    MEMORY = "memory"
    MEMORY_PRESSURE = "memory pressure"
    TEMPERATURE = "temperature"
    EXCLUSIVE = "exclusive program"
    USER = "user"
    BATTERY = "battery"
    POWER_SAVER = "power saver"
    NETWORK = "network"
    DISK = "disk"
    GPU = "gpu"
    OTHERS = "other programs"


@dataclass(frozen=True)
class Decision:
    """`reason` is a sentence for the owner, never empty; `held` names the signals that hold lending back.

    `threads` is how many the engine may use, 0 as many as it likes; it is 1 in pauses, for sessions that still end.
    """

    verdict: Verdict
    reason: str
    threads: int = 0
    held: tuple[str, ...] = ()
