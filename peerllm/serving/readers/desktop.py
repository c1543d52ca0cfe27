"""What a desktop says of its user, whatever the system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from peerllm.serving.readers.source import Source


@dataclass(frozen=True)
class DesktopReadings:
    """As in `Readings`; `full_screen` is "" for no program, None for unknown."""

    idle_s: float | None = None
    power_saver: bool | None = None
    metered: bool | None = None
    full_screen: str | None = None
    gaming: bool | None = None
    lid_closed: bool | None = None
    suspending: bool | None = None


class Desktop(Protocol):
    @property
    def sources(self) -> dict[str, tuple[Source[Any], ...]]:
        """Field of `Readings` -> where it is read, the best first."""
        ...

    def read(self, now: float, until_s: float) -> DesktopReadings:
        """At the Unix time `now`; answers under way are waited for until then, in `time.monotonic()`."""
        ...

    def ready_to_sleep(self) -> None:
        """What was promised to others is handed over: the machine may suspend."""
        ...

    def close(self) -> None: ...
