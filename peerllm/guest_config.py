"""The config section of the good guest: when this machine lends, how much is left to its owner, and how politely.

`docs/guest.md` says which policy uses which field.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.hours import parse_hours
from peerllm.rules import BYTES, SECONDS, SWITCH, TEXTS, between, one_of
from peerllm.settings import Rule, setting

_HOURS = Rule('hours such as 22:00-07:00, or "" for any', lambda _: True, parse_hours)
_RATE = Rule("bytes per second such as 2MB, or 0", BYTES.admits, BYTES.parse)


@dataclass(frozen=True)
class GuestConfig:
    policy: str = setting(
        "polite",
        one_of("idle", "polite", "night", "custom"),
        "When this machine lends: idle, only while nobody uses it; polite, always, with what nobody else wants; night, "
        "politely in guest.hours; custom, as this section says. polite: it costs its owner next to nothing.",
    )
    idle_after_s: float = setting(
        300.0,
        SECONDS,
        "Seconds without a key or a pointer after which nobody uses this machine. For idle and custom; custom with 0 "
        "does not wait for that.",
    )
    on_battery: bool = setting(
        False, SWITCH, "Lend on battery. For custom; the presets never do, as lending may halve its hours."
    )
    min_battery: float = setting(
        0.5, between(0, 1), "Least charge with which guest.on_battery still lends; half is left to the owner."
    )
    power_saver: bool = setting(
        False, SWITCH, "Lend while the system saves power. For custom; the presets do not, as the owner asked to save."
    )
    metered: bool = setting(
        False, SWITCH, "Lend over a network that is paid by volume. For custom; the presets never do."
    )
    hours: str = setting(
        "22:00-07:00",
        _HOURS,
        'Local hours in which night and custom lend; over midnight if need be. "" is at any hour.',
    )
    programs: tuple[str, ...] = setting(
        (),
        TEXTS,
        "Programs that want the machine for themselves, as patterns of their names (*.x86_64, blender): while one "
        "runs nothing is lent. Whatever fills the screen does so anyway, where that can be seen.",
    )
    most_others_cores: float = setting(
        0.5,
        between(0, 1),
        "Share of the cores that other programs may use before idle and custom pause; 1 never pauses for it. polite "
        "and night only leave them those cores.",
    )
    most_others_gpu: float = setting(
        0.2,
        between(0, 1),
        "Share of its time that the GPU may work for other programs before lending pauses; 1 never pauses for it. "
        "polite and night look only where they compute on the GPU themselves. Low, as GPUs know no politeness.",
    )
    reserve_bytes: int = setting(
        1 << 30, BYTES, "Memory always left free; below half of it, what is lent is given back at once."
    )
    disk_reserve_bytes: int = setting(
        1 << 30, BYTES, "Disk space where the models are below which lending pauses, so that it fetches no more."
    )
    gpu_memory_bytes: int = setting(
        0, BYTES, "Most GPU memory lent, if less than contribution.memory_bytes; 0 sets no other limit."
    )
    resume_s: float = setting(
        120.0, SECONDS, "Seconds without any reason to pause before lending goes on, so that it does not flap."
    )
    release_s: float = setting(
        300.0, SECONDS, "Seconds in a pause before memory is given back, too; short pauses need no loading anew."
    )
    upload_bytes_per_s: int = setting(0, _RATE, "Most that is sent to peers; 0 sets no limit.")
    download_bytes_per_s: int = setting(0, _RATE, "Most that is received from peers; 0 sets no limit.")
    power: str = setting(
        "auto",
        one_of("auto", "eco", "turbo"),
        "How much power answers may take: eco, the least; turbo, all; auto, turbo only as far as guest.goal_ms asks.",
    )
    goal_ms: float = setting(
        0.0,
        between(0, 60_000, "ms"),
        "Time per token through this machine's blocks that power = auto tries to keep; 0 leaves it to the machine.",
    )
