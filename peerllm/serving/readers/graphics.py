"""What other programs do on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from peerllm.serving.readers.source import Unreadable


@dataclass(frozen=True)
class Graphics:
    """`busy` is the share of time that the busiest GPU works for others, 0 to 1; None if it cannot be told apart."""

    busy: float | None
    free_bytes: int


class GraphicsReader:
    """Looks through the driver's own library; without a driver it is unreadable."""

    def __init__(self, own: Callable[[], Collection[int]]) -> None:
        """`own` gives the ids of peerllm's own processes."""
        self._own = own
        self._library: ModuleType | None = None
        self._seen: dict[int, int] = {}  # GPU -> microseconds of its last sample

    def read(self) -> Graphics:
        """Of all GPUs, how busy the busiest is; the free memory is that of the first, where models are loaded."""
        library = self._opened()
        gpus = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        if not gpus:
            raise Unreadable("no NVIDIA GPU")
        busy = [self._busy(library, index, gpu) for index, gpu in enumerate(gpus)]
        known = [share for share in busy if share is not None]
        return Graphics(max(known, default=None), library.nvmlDeviceGetMemoryInfo(gpus[0]).free)

    def close(self) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None

    def _opened(self) -> ModuleType:
        if self._library is None:
            import pynvml

            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise Unreadable(f"no NVIDIA driver ({error})") from error
            self._library = pynvml
        return self._library

    def _busy(self, library: ModuleType, index: int, gpu: Any) -> float | None:
        own = self._own()
        try:
            samples = library.nvmlDeviceGetProcessUtilization(gpu, self._seen.get(index, 0))
        except library.NVMLError as error:
            if error.value == library.NVML_ERROR_NOT_FOUND:
                return 0.0  # no process has used it since the last look
            # not told by process (MIG, some drivers): the whole is others' as long as none of ours is on it
            running = {process.pid for process in library.nvmlDeviceGetComputeRunningProcesses(gpu)}
            return None if running & set(own) else library.nvmlDeviceGetUtilizationRates(gpu).gpu / 100
        self._seen[index] = max((sample.timeStamp for sample in samples), default=self._seen.get(index, 0))
        return others_share(((sample.pid, sample.smUtil) for sample in samples), own)


def others_share(samples: Iterable[tuple[int, int]], own: Collection[int]) -> float:
    """From (process, percent): the highest of each process, summed over those that are not our own, at most 1."""
    highest: dict[int, int] = {}
    for process, percent in samples:
        if process not in own:
            highest[process] = max(percent, highest.get(process, 0))
    return min(1.0, sum(highest.values()) / 100)
