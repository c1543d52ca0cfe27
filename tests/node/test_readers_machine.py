"""The readings of this machine, whatever of it can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from peerllm.engine.threads import OtherPrograms, is_peerllm
from peerllm.serving.readers import MachineReader
from peerllm.serving.readers.desktop import DesktopReadings
from peerllm.serving.readers.machine import exclusive_program
from peerllm.serving.readers.places import Places
from peerllm.serving.readers.processor import ProcessorReader
from peerllm.serving.signals import FIELDS

LIMIT_S = 20.0


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[MachineReader]:
    """Of a machine without buses, screens or control groups."""
    places = Places(
        proc=tmp_path,
        sys=tmp_path,
        x_sockets=tmp_path,
        environ={name: "unix:path=/nowhere" for name in ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS")},
    )
    found = MachineReader(models_dir=tmp_path / "not made yet", programs=(), places=places)
    yield found
    found.close()


def test_what_cannot_be_read_is_unknown_with_a_reason(reader: MachineReader) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        readings = reader.read(1000.0)
        if readings.others_cores is not None and readings.disk_free_bytes is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert readings.at == 1000.0
    assert 0 <= readings.others_cores <= readings.cores
    assert readings.memory_free_bytes <= readings.memory_total_bytes
    why = dict(readings.unknown)
    assert why.keys() <= FIELDS.keys()
    assert all(getattr(readings, field) is None and reason for field, reason in why.items())
    if sys.platform == "linux":
        assert (readings.idle_s, readings.metered, readings.exclusive) == (None, None, None)
        assert "no system bus" in why["idle_s"]
        assert why["memory_pressure"] == "no /proc/pressure"


def test_every_source_belongs_to_a_signal(reader: MachineReader) -> None:
    assert reader.sources.keys() <= FIELDS.keys()


def test_closed_reader_still_answers(reader: MachineReader) -> None:
    reader.close()
    assert reader.read(1000.0).idle_s is None


def test_program_wants_the_machine() -> None:
    assert exclusive_program(DesktopReadings(), None) is None
    assert exclusive_program(DesktopReadings(), "") == ""
    assert exclusive_program(DesktopReadings(full_screen=""), None) == ""
    assert exclusive_program(DesktopReadings(full_screen="Game"), "") == "Game"
    assert exclusive_program(DesktopReadings(full_screen="Game"), "blender") == "blender"
    assert exclusive_program(DesktopReadings(full_screen="", gaming=True), "") == "a game (GameMode)"
    assert exclusive_program(DesktopReadings(gaming=False), None) is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/home/me/.venv/bin/python", "-m", "peerllm", "daemon"], True),
        (["/usr/bin/python3", "-m", "peerllm.cli", "chat"], True),
        (["/usr/bin/python3", "/usr/bin/peerllm", "tray"], True),
        (["/lib/hivemind/hivemind_cli/p2pd", "-listen"], True),
        (["/home/me/peerllm/.venv/bin/python", "train.py"], False),
        (["vim", "/home/me/peerllm/config.py"], False),
        (["bash", "-c", "peerllm status; make"], False),
        ([], False),
    ],
)
def test_own_programs_are_known_by_name(command: list[str], expected: bool) -> None:
    assert is_peerllm(command) is expected


@pytest.mark.skipif(sys.platform == "win32", reason="needs a process that is nobody's child")
def test_busy_program_of_another_is_seen() -> None:
    reader = ProcessorReader(os.cpu_count() or 1)
    shell = f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1 & echo $!"
    started = time.monotonic()
    pid = int(subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout)
    try:
        busy = psutil.Process(pid)
        assert busy.ppid() != os.getpid()
        while busy.cpu_times().user < 0.5:
            assert time.monotonic() < started + LIMIT_S
            time.sleep(0.05)
        assert reader.read() * (time.monotonic() - started) > 0.3
    finally:
        os.kill(pid, signal.SIGKILL)


def test_own_child_that_ends_between_looks_is_not_counted_as_others() -> None:
    work = "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\ninput()"
    command = [sys.executable, "-c", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        others, started = OtherPrograms(), time.monotonic()
        seen_before = sum(psutil.Process(child.pid).cpu_times()[:2])
        assert child.stdout is not None
        child.stdout.readline()
        own_s = sum(psutil.Process(child.pid).cpu_times()[:2]) - seen_before
        elapsed_s = time.monotonic() - started
        first = others.cores(elapsed_s) * elapsed_s
        child.communicate("\n")
    end_s = time.monotonic() - started - elapsed_s
    after = others.cores(end_s) * end_s
    assert first + after < (os.cpu_count() or 1) * (elapsed_s + end_s) - own_s + 0.4
