"""What the processors take, by Intel's and AMD's energy counters (RAPL), where the system lets them be read.

Most systems let only root, since the counters can tell what others compute (CVE-2020-8694).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class _Package:
    """One processor's counter, which begins anew at `range_uj`."""

    counter: Path
    range_uj: int
    last_uj: int

    def used_uj(self) -> int:
        """Since the last call; raises OSError, ValueError."""
        now_uj = int(self.counter.read_text())
        used_uj = now_uj - self.last_uj
        self.last_uj = now_uj
        return used_uj if used_uj >= 0 else used_uj + self.range_uj


class PackageWatts:
    """All processors together, memory and mainboard left out."""

    def __init__(self, now: float, folder: Path = POWERCAP) -> None:
        self._packages = [package for place in sorted(folder.glob("intel-rapl:*")) if (package := _package(place))]
        self._looked_at = now

    def watts(self, now: float) -> float | None:
        """On average since the last call; None if it cannot be read."""
        passed_s, self._looked_at = now - self._looked_at, now
        if not self._packages or passed_s <= 0:
            return None
        try:
            return sum(package.used_uj() for package in self._packages) / 1e6 / passed_s
        except (OSError, ValueError):
            return None


def _package(place: Path) -> _Package | None:
    """None for a part of a processor, which its package counts too, and for what cannot be read."""
    try:
        if not (place / "name").read_text().startswith("package"):
            return None
        counter = place / "energy_uj"
        return _Package(counter, int((place / "max_energy_range_uj").read_text()), int(counter.read_text()))
    except (OSError, ValueError):
        return None
