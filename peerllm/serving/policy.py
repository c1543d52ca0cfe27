"""When this machine lends: the presets, and what the owner's own settings make of them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peerllm.guest_config import GuestConfig
from peerllm.hours import Hours

NEVER = 1.0
"""As a share of others' load: nothing that others do is too much."""


@dataclass(frozen=True)
class OwnersWord:
    """What the owner has said apart from settings: once yes, on or off, and until when to pause (Unix time, 0: not)."""

    consented: bool = False
    sharing: bool = False
    paused_until: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.paused_until):
            raise ValueError(f"{self.paused_until} is no time")


@dataclass(frozen=True)
class Policy:
    """The owner's word and a rule for each signal; docs/guest.md has the table of presets.

    What no policy changes (programs that want the machine, heat, a closed lid, suspending) has no field here.
    """

    name: str
    word: OwnersWord
    idle_after_s: float | None
    """Lend only so long after the last key or pointer, which must be known; None lends beside the user."""
    on_battery: bool
    min_battery: float
    power_saver: bool
    metered: bool
    hours: Hours | None
    """None is at any hour."""
    most_others_cores: float
    most_others_gpu: float
    reserve_bytes: int
    disk_reserve_bytes: int
    resume_s: float
    release_s: float
    crowded: bool
    """Lend while others use every core."""


def policy_from(guest: GuestConfig, word: OwnersWord = OwnersWord(), *, on_gpu: bool = False) -> Policy:
    """The rules of `guest.policy`; `on_gpu` is whether what is lent computes on the GPU."""
    custom, idle, night = guest.policy == "custom", guest.policy == "idle", guest.policy == "night"
    alone = custom or idle  # others' programs stop it, rather than only take their share
    waits = idle or (custom and guest.idle_after_s > 0)
    return Policy(
        name=guest.policy,
        word=word,
        idle_after_s=guest.idle_after_s if waits else None,
        on_battery=custom and guest.on_battery,
        min_battery=guest.min_battery,
        power_saver=custom and guest.power_saver,
        metered=custom and guest.metered,
        hours=Hours.parse(guest.hours) if guest.hours and (custom or night) else None,
        most_others_cores=guest.most_others_cores if alone else NEVER,
        most_others_gpu=guest.most_others_gpu if alone or on_gpu else NEVER,
        reserve_bytes=guest.reserve_bytes,
        disk_reserve_bytes=guest.disk_reserve_bytes,
        resume_s=guest.resume_s,
        release_s=guest.release_s,
        crowded=custom and guest.most_others_cores >= NEVER,
    )
