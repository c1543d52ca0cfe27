"""Everything that is read of this machine, each source at its own rhythm."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from peerllm.engine.threads import usable_cores
from peerllm.serving.readers.battery import read_battery
from peerllm.serving.readers.desktop import Desktop, DesktopReadings
from peerllm.serving.readers.graphics import GraphicsReader
from peerllm.serving.readers.heat import read_heat
from peerllm.serving.readers.linux import LinuxDesktop
from peerllm.serving.readers.mac import MacDesktop
from peerllm.serving.readers.memory import read_memory
from peerllm.serving.readers.places import Places
from peerllm.serving.readers.pressure import read_pressure
from peerllm.serving.readers.processor import ProcessorReader
from peerllm.serving.readers.programs import own_processes, running_program
from peerllm.serving.readers.source import Apart, Source, here
from peerllm.serving.readers.windows import WindowsDesktop
from peerllm.serving.readings import Readings

PATIENCE_S = 0.2
"""A reading waits so long for what is under way; what comes later is in the next one."""


class MachineReader:
    """Asked from one thread, about once a second; reading never raises and waits `PATIENCE_S` at most."""

    def __init__(
        self, *, models_dir: Path, programs: Sequence[str], places: Places | None = None, delays_sleep: bool = True
    ) -> None:
        """
        Args:
            programs: patterns of names of programs that want the machine for themselves; may be set later, too.
            places: None is this machine's own.
            delays_sleep: hold suspending up until `ready_to_sleep`, for 4 s at most.
        """
        places = places or Places()
        self.programs = tuple(programs)
        self._cores = usable_cores()
        self._own: tuple[psutil.Process, ...] = (psutil.Process(),)
        self._slow, self._models, self._driver = Apart("processes and sensors"), Apart("disk"), Apart("GPU driver")
        self._graphics_reader = GraphicsReader(lambda: {process.pid for process in self._own})
        self._desktop = _desktop(places, delays_sleep)

        self._family = Source("process list", self._slow.ask(own_processes), every_s=10.0)
        self._processor = Source("processor times", here(ProcessorReader(self._cores).read), every_s=1.0)
        self._memory = Source("system", here(lambda: read_memory(places, self._own)), every_s=1.0)
        self._pressure = Source("pressure stall information", here(lambda: read_pressure(places.proc)), every_s=1.0)
        self._battery = Source("power supplies", self._slow.ask(lambda: read_battery(places.sys)), every_s=5.0)
        self._heat = Source("sensors", self._slow.ask(read_heat), every_s=10.0)
        self._disk = Source("file system", self._models.ask(lambda: free_disk_bytes(models_dir)), every_s=10.0)
        self._graphics = Source("NVIDIA driver", self._driver.ask(self._graphics_reader.read), every_s=2.0)
        self._program = Source(
            "process list", self._slow.ask(lambda: running_program(self.programs, self._own)), every_s=5.0
        )

    def read(self, now: float) -> Readings:
        """What is known at the Unix time `now`."""
        sources = self.sources
        now_s = time.monotonic()
        for source in {self._family, *(source for each in sources.values() for source in each)}:
            source.begin(now_s)
        readings = self._gather(now, now_s + PATIENCE_S)
        unknown = tuple(
            (field, ", ".join(dict.fromkeys(source.why for source in each if source.why)) or "nothing tells")
            for field, each in sources.items()
            if getattr(readings, field) is None
        )
        return replace(readings, unknown=unknown)

    @property
    def sources(self) -> dict[str, tuple[Source[Any], ...]]:
        """Field of `Readings` -> where it is read, the best first."""
        desktop, programs = self._desktop.sources, (self._program,) if self.programs else ()
        return {
            "others_cores": (self._processor,),
            "memory_free_bytes": (self._memory,),
            "memory_pressure": (self._pressure,),
            "on_battery": (self._battery,),
            "temperature_c": (self._heat,),
            "gpu_busy": (self._graphics,),
            "disk_free_bytes": (self._disk,),
            **desktop,
            "exclusive": (*desktop.get("exclusive", ()), *programs),
        }

    def ready_to_sleep(self) -> None:
        """What was promised to others is handed over: suspending need not wait any longer."""
        self._desktop.ready_to_sleep()

    def close(self) -> None:
        """End the threads; one that hangs in a system call is left behind."""
        self._desktop.close()
        self._driver.close(self._graphics_reader.close)
        self._models.close()
        self._slow.close()

    def _gather(self, now: float, until_s: float) -> Readings:
        self._own = self._family.value(until_s) or self._own
        memory, pressure = self._memory.value(until_s), self._pressure.value(until_s)
        battery, heat = self._battery.value(until_s), self._heat.value(until_s)
        graphics, desktop = self._graphics.value(until_s), self._desktop.read(now, until_s)
        local = time.localtime(now)
        return Readings(
            at=now,
            idle_s=desktop.idle_s,
            on_battery=battery and battery.on_battery,
            battery=battery and battery.charge,
            power_saver=desktop.power_saver,
            cores=self._cores,
            others_cores=self._processor.value(until_s),
            memory_total_bytes=memory and memory.total_bytes,
            memory_free_bytes=memory and memory.free_bytes,
            own_memory_bytes=memory and memory.own_bytes,
            memory_pressure=pressure and pressure.memory,
            cpu_pressure=pressure and pressure.cpu,
            io_pressure=pressure and pressure.io,
            gpu_busy=graphics and graphics.busy,
            gpu_free_bytes=graphics and graphics.free_bytes,
            disk_free_bytes=self._disk.value(until_s),
            too_hot=heat and heat.too_hot,
            temperature_c=heat and heat.temperature_c,
            metered=desktop.metered,
            exclusive=exclusive_program(desktop, self._program.value(until_s) if self.programs else None),
            lid_closed=desktop.lid_closed,
            suspending=desktop.suspending,
            local_minute=local.tm_hour * 60 + local.tm_min,
        )


def exclusive_program(desktop: DesktopReadings, running: str | None) -> str | None:
    """Which program wants the machine for itself, "" if none does; None if nobody looked.

    `running` is one of the owner's list, None if there is no list.
    """
    if running or desktop.full_screen:
        return running or desktop.full_screen
    if desktop.gaming:
        return "a game (GameMode)"
    return "" if running is not None or desktop.full_screen is not None else None


def free_disk_bytes(folder: Path) -> int:
    """Where `folder` is or will be made."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _desktop(places: Places, delays_sleep: bool) -> Desktop:
    match sys.platform:
        case "darwin":
            return MacDesktop()
        case "win32":
            return WindowsDesktop()
        case _:
            return LinuxDesktop(places, delays_sleep=delays_sleep)
