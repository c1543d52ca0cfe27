"""Cores that other programs use."""

from __future__ import annotations

import time

from peerllm.engine.threads import OtherPrograms
from peerllm.serving.readers.source import Unreadable

SEARCH_EVERY_S = 5.0
"""New processes of peerllm's own are noticed after so long."""

SHORTEST_LOOK_S = 0.5
"""The system counts in hundredths of a second: shorter looks say little."""


class ProcessorReader:
    """What others use, on average over the time since the last look."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._others = OtherPrograms(search_every_s=SEARCH_EVERY_S)
        self._looked_s = time.monotonic()
        self._last: float | None = None

    def read(self) -> float:
        """Cores, 0 to all."""
        now_s = time.monotonic()
        if (elapsed_s := now_s - self._looked_s) >= SHORTEST_LOOK_S:
            self._last = min(float(self._cores), self._others.cores(elapsed_s))
            self._looked_s = now_s
        if self._last is None:
            raise Unreadable("known after the second look")
        return self._last
