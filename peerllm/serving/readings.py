"""What is known of this machine at one instant. None is unknown, never a guess."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Readings:
    """Made by `peerllm.serving.readers`, judged by `peerllm.serving.governor`; peerllm's own processes never count."""

    at: float
    """Unix time."""
    idle_s: float | None = None
    """Since the user last touched keyboard or pointer."""
    on_battery: bool | None = None
    battery: float | None = None
    """0 to 1."""
    power_saver: bool | None = None
    cores: int = 1
    others_cores: float | None = None
    """Cores that other programs use, averaged over the last look or two; 0 to `cores`."""
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    """What can be taken without swapping; what peerllm itself holds is not in it."""
    own_memory_bytes: int | None = None
    memory_pressure: float | None = None
    """Share of the last 10 s in which something waited for memory, 0 to 1 (PSI, some avg10)."""
    cpu_pressure: float | None = None
    io_pressure: float | None = None
    gpu_busy: float | None = None
    """By other programs, 0 to 1."""
    gpu_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    """On the file system that holds the models."""
    too_hot: bool | None = None
    """A sensor is at what its maker calls high."""
    temperature_c: float | None = None
    metered: bool | None = None
    exclusive: str | None = None
    """The program that wants the machine for itself (full screen, or in the owner's list); "" if none does."""
    lid_closed: bool | None = None
    suspending: bool | None = None
    local_minute: int = 0
    """Minutes since local midnight."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Names of fields that are None, and why, for people: ("idle_s", "no X server, no logind")."""
