"""What files and programs of the system say: texts as real machines gave them, and this machine's own."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from peerllm.serving.readers import mac, windows
from peerllm.serving.readers.battery import Battery, read_battery, read_power_supplies
from peerllm.serving.readers.cgroup import GroupMemory, read_group_memory
from peerllm.serving.readers.graphics import GraphicsReader, others_share
from peerllm.serving.readers.heat import Heat, judge
from peerllm.serving.readers.memory import read_memory
from peerllm.serving.readers.places import Places
from peerllm.serving.readers.pressure import Pressure, read_pressure, some_avg10
from peerllm.serving.readers.programs import first_match, own_processes, running_program
from peerllm.serving.readers.services import lid_button, saver_firmware
from peerllm.serving.readers.source import Unreadable

GIB = 1 << 30

Sensor = namedtuple("Sensor", "current high")

IOREG = """+-o IOHIDSystem  <class IOHIDSystem, id 0x100000492, registered, matched, active, busy 0 (0 ms), retain 17>
    {
      "IOProviderClass" = "IOResources"
      "HIDIdleTime" = 1712345678
      "HIDParameters" = {"HIDClickTime"=500000000,"HIDScrollCountMaxTimeDeltaToSustain"=250}
    }
"""

PMSET = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 lowpowermode         1
 sleep                1 (sleep prevented by powerd)
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_pressure_is_the_last_ten_seconds(tmp_path: Path) -> None:
    line = "some avg10=13.12 avg60=4.56 avg300=2.18 total=18646261427\nfull avg10=5.73 avg60=0.00 avg300=0.00 total=0\n"
    write(tmp_path, {"pressure/cpu": line, "pressure/memory": line.replace("13.12", "0.00")})
    assert read_pressure(tmp_path) == Pressure(cpu=pytest.approx(0.1312), memory=0.0, io=None)
    assert some_avg10("") is None
    with pytest.raises(Unreadable, match="pressure"):
        read_pressure(tmp_path / "container")


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="this kernel tells no pressure")
def test_pressure_of_this_machine_is_a_share() -> None:
    cpu = read_pressure(Path("/proc")).cpu
    assert cpu is None or 0 <= cpu <= 1


def test_group_of_version_2_and_those_around_it_limit_memory(tmp_path: Path) -> None:
    places = {
        "proc/self/cgroup": "0::/user.slice/app.service\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/fs/cgroup/user.slice/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/user.slice/memory.high": f"{3 * GIB}\n",
        "sys/fs/cgroup/user.slice/memory.current": f"{2 * GIB}\n",
        "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {GIB // 2}\nactive_file 5\n",
        "sys/fs/cgroup/user.slice/app.service/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/app.service/memory.current": "12345\n",
    }
    write(tmp_path, places)
    assert read_group_memory(tmp_path / "proc", tmp_path / "sys") == GroupMemory(3 * GIB, 3 * GIB // 2)


def test_group_of_version_1_limits_memory(tmp_path: Path) -> None:
    """A container without a namespace of groups is told a path that does not exist within."""
    places = {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/0af3\n4:memory:/docker/0af3\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB // 4}\n",
    }
    write(tmp_path, places)
    assert read_group_memory(tmp_path / "proc", tmp_path / "sys") == GroupMemory(2 * GIB, GIB + GIB // 4)
    write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert read_group_memory(tmp_path / "proc", tmp_path / "sys") is None


def test_group_outside_of_the_container_is_its_root(tmp_path: Path) -> None:
    places = {
        "proc/self/cgroup": "0::/../../other\n",
        "sys/fs/cgroup/memory.max": f"{GIB}\n",
        "sys/fs/cgroup/memory.current": "0\n",
    }
    write(tmp_path, places)
    assert read_group_memory(tmp_path / "proc", tmp_path / "sys") == GroupMemory(GIB, GIB)


def test_memory_of_this_machine_is_bounded_by_its_group(tmp_path: Path) -> None:
    free = read_memory(Places(), own_processes())
    assert 0 < free.own_bytes < free.total_bytes
    assert 0 <= free.free_bytes <= free.total_bytes <= psutil.virtual_memory().total
    places = {
        "self/cgroup": "0::/\n",
        "fs/cgroup/memory.max": f"{GIB // 8}\n",
        "fs/cgroup/memory.current": f"{GIB // 16}\n",
    }
    write(tmp_path, places)
    within = read_memory(Places(proc=tmp_path, sys=tmp_path), own_processes())
    assert (within.total_bytes, within.free_bytes) == (GIB // 8, GIB // 16)


def supply(**facts: str) -> dict[str, str]:
    return {name: f"{value}\n" for name, value in facts.items()}


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, Battery(on_battery=False, charge=None)),
        ({"AC": supply(type="Mains", online="1")}, Battery(on_battery=False, charge=None)),
        (
            {
                "AC": supply(type="Mains", online="0"),
                "BAT0": supply(type="Battery", status="Discharging", capacity="73"),
            },
            Battery(on_battery=True, charge=0.73),
        ),
        (
            {"AC": supply(type="Mains", online="1"), "BAT0": supply(type="Battery", status="Charging", capacity="40")},
            Battery(on_battery=False, charge=0.4),
        ),
        (  # a charger that is too weak: it is plugged in, the battery still empties
            {"C": supply(type="USB", online="1"), "BAT0": supply(type="Battery", status="Discharging", capacity="40")},
            Battery(on_battery=False, charge=0.4),
        ),
        (  # a wireless mouse on a desktop
            {
                "hidpp_battery_0": supply(type="Battery", scope="Device", status="Discharging", capacity="5"),
                "AC": supply(type="Mains", online="0"),
            },
            Battery(on_battery=False, charge=None),
        ),
        (  # two batteries, one of them taken out
            {
                "BAT0": supply(type="Battery", status="Discharging", capacity="50", present="1"),
                "BAT1": supply(type="Battery", status="Unknown", capacity="0", present="0"),
            },
            Battery(on_battery=True, charge=0.5),
        ),
    ],
)
def test_battery(tmp_path: Path, supplies: dict[str, dict[str, str]], expected: Battery) -> None:
    for name, facts in supplies.items():
        write(tmp_path / name, facts)
    assert read_power_supplies(tmp_path) == expected


def test_battery_of_this_machine_agrees_with_psutil() -> None:
    try:
        found = read_battery(Path("/sys"))
    except Unreadable:
        return
    by_psutil = psutil.sensors_battery()
    if by_psutil is None:
        assert found == Battery(on_battery=False, charge=None)


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [
        ({"coretemp": [Sensor(61.0, 100.0), Sensor(64.0, 100.0)], "nvme": [Sensor(70.0, None)]}, Heat(False, 64.0)),
        ({"k10temp": [Sensor(95.5, 95.0)]}, Heat(True, 95.5)),
        ({"k10temp": [Sensor(60.0, None)], "nvme": [Sensor(84.9, 84.8)]}, Heat(True, 60.0)),
        ({"acpitz": [Sensor(27.8, None)]}, Heat(None, 27.8)),
        ({"nvme": [Sensor(40.0, 65261.8)], "broken": [Sensor(-273.0, 0.0)]}, Heat(None, 40.0)),
    ],
)
def test_heat(sensors: dict[str, list[Sensor]], expected: Heat) -> None:
    assert judge(sensors) == expected


def test_no_sensor_is_no_temperature() -> None:
    with pytest.raises(Unreadable):
        judge({"broken": [Sensor(0.0, 0.0)]})


def test_gpu_is_busy_by_others_alone() -> None:
    assert others_share([(1, 80), (1, 95), (7, 20), (8, 15)], own={1}) == 0.35
    assert others_share([(7, 70), (8, 70)], own=()) == 1.0
    assert others_share([], own=()) == 0.0


def test_without_a_driver_the_gpu_is_unknown() -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(Unreadable, match="no NVIDIA driver"):
        GraphicsReader(lambda: ()).read()


@pytest.mark.parametrize(
    ("name", "patterns", "fits"),
    [
        ("blender", ["blender"], True),
        ("Blender", ["blend*"], True),
        ("Cyberpunk2077.exe", ["cyberpunk2077"], True),
        ("game.x86_64", ["*.x86_64"], True),
        ("blender", ["*.exe"], False),
        ("blender-thumbnailer", ["blender"], False),
        ("blender", [], False),
    ],
)
def test_program_fits_a_pattern(name: str, patterns: list[str], fits: bool) -> None:
    assert first_match([name], patterns) == (name if fits else "")


@pytest.mark.skipif(sys.platform == "win32", reason="copies a program of Unix")
def test_program_of_the_owners_list_is_seen_while_it_runs(tmp_path: Path) -> None:
    game = Path(shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "big-game"))
    with subprocess.Popen([game, "60"]) as child:
        try:
            assert running_program(["big-*"], [psutil.Process()]) == "big-game"
            assert running_program(["big-*"], own_processes()) == ""
            assert running_program([], [psutil.Process()]) == ""
        finally:
            child.kill()
    assert running_program(["big-*"], [psutil.Process()]) == ""


def test_firmware_profile(tmp_path: Path) -> None:
    write(tmp_path, {"firmware/acpi/platform_profile": "low-power\n"})
    assert saver_firmware(tmp_path) is True
    write(tmp_path, {"firmware/acpi/platform_profile": "balanced\n"})
    assert saver_firmware(tmp_path) is False
    with pytest.raises(Unreadable):
        saver_firmware(tmp_path / "none")


def test_lid_button(tmp_path: Path) -> None:
    with pytest.raises(Unreadable):
        lid_button(tmp_path)
    write(tmp_path, {"acpi/button/lid/LID0/state": "state:      open\n"})
    assert lid_button(tmp_path) is False
    write(tmp_path, {"acpi/button/lid/LID0/state": "state:      closed\n"})
    assert lid_button(tmp_path) is True


def test_mac_idle_time_and_low_power_mode() -> None:
    assert mac.idle_s(IOREG) == pytest.approx(1.712345678)
    assert mac.power_saver(PMSET) is True
    assert mac.power_saver(PMSET.replace("lowpowermode         1", "lowpowermode         0")) is False
    for parse in (mac.idle_s, mac.power_saver):
        with pytest.raises(Unreadable):
            parse("nothing of it")


def test_windows_ticks_begin_anew() -> None:
    assert windows.idle_s(1_000, 5_500) == 4.5
    assert windows.idle_s(2**32 - 1_000, 500) == 1.5
    assert ctypes.sizeof(windows.LastInput) == 8
    assert ctypes.sizeof(windows.PowerStatus) == 12
    if sys.platform == "win32":
        assert windows.WindowsDesktop().read(0.0, 0.0) is not None
