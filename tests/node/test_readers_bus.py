"""What D-Bus tells of sessions, sleep, power, the network and games, from services that answer as the real ones do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerllm.serving.readers.linux import LinuxDesktop
from peerllm.serving.readers.places import Places
from tests.support.stand_in_bus import StandInServices, private_bus

pytest.importorskip("dbus_fast")

from dbus_fast import Variant

ME, OTHER = 1000, 1001
LOGIN, LOGIN_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER, SESSION = f"{LOGIN}.Manager", f"{LOGIN}.Session"
PROFILES, PROFILES_PATH = "org.freedesktop.UPower.PowerProfiles", "/org/freedesktop/UPower/PowerProfiles"
NETWORK, NETWORK_PATH = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
GAMEMODE, GAMEMODE_PATH = "com.feralinteractive.GameMode", "/com/feralinteractive/GameMode"
MUTTER = "org.gnome.Mutter.IdleMonitor"
LIMIT_S = 20.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as found:
        yield found


@pytest.fixture
def services(address: str) -> Iterator[StandInServices]:
    stand_in = StandInServices(address)
    stand_in.properties[LOGIN_PATH, MANAGER] = {
        "LidClosed": Variant("b", False),
        "PreparingForSleep": Variant("b", False),
    }
    stand_in.methods["ListSessions"] = ("a(susso)", [[]])
    yield stand_in
    stand_in.close()


@pytest.fixture
def desktop(address: str, tmp_path: Path) -> Iterator[LinuxDesktop]:
    """Without an X server, and with one private bus for both."""
    environ = {
        "DBUS_SYSTEM_BUS_ADDRESS": address,
        "DBUS_SESSION_BUS_ADDRESS": address,
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    places = Places(proc=tmp_path, sys=tmp_path, x_sockets=tmp_path / "none", environ=environ, user_id=ME)
    reader = LinuxDesktop(places, delays_sleep=True)
    yield reader
    reader.close()


def read(desktop: LinuxDesktop, now: float = 0.0):
    """With every source asked now, whatever its rhythm."""
    for source in {source for each in desktop.sources.values() for source in each}:
        source.hurry()
        source.begin(time.monotonic())
    return desktop.read(now or time.time(), time.monotonic() + LIMIT_S)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def add_session(services: StandInServices, number: int, user: int, **facts: Variant) -> None:
    path = f"{LOGIN_PATH}/session/_{number}"
    services.methods["ListSessions"][1][0].append([str(number), user, "name", "seat0", path])
    services.properties[path, SESSION] = {
        "User": Variant("(uo)", [user, "/"]),
        "Class": Variant("s", "user"),
        "Type": Variant("s", "wayland"),
        "State": Variant("s", "active"),
        "Active": Variant("b", True),
        "IdleHint": Variant("b", False),
        "IdleSinceHint": Variant("t", 0),
        "Display": Variant("s", ""),
    } | facts


def test_empty_bus_tells_nothing_and_starts_nothing(address: str, desktop: LinuxDesktop, tmp_path: Path) -> None:
    """A service that would be started by being asked is not."""
    started = tmp_path / "started"
    service = f"[D-BUS Service]\nName={GAMEMODE}\nExec=/bin/touch {started}\n"
    (tmp_path / f"{GAMEMODE}.service").write_text(service)
    found = read(desktop)
    assert (found.idle_s, found.power_saver, found.metered, found.gaming, found.lid_closed, found.suspending) == (
        (None,) * 6
    )
    assert [source.why for source in desktop.sources["metered"]] == ["no org.freedesktop.NetworkManager"]
    assert not started.exists()


def test_services_are_read_and_their_end_is_noticed(services: StandInServices, desktop: LinuxDesktop) -> None:
    services.properties[PROFILES_PATH, PROFILES] = {"ActiveProfile": Variant("s", "power-saver")}
    services.properties[NETWORK_PATH, NETWORK] = {"Metered": Variant("u", 1)}
    services.properties[GAMEMODE_PATH, GAMEMODE] = {"ClientCount": Variant("i", 2)}
    services.methods["GetIdletime"] = ("t", [4200])
    services.own(PROFILES, NETWORK, GAMEMODE, MUTTER)
    found = read(desktop)
    assert (found.power_saver, found.metered, found.gaming, found.idle_s) == (True, True, True, 4.2)

    services.properties[PROFILES_PATH, PROFILES] = {"ActiveProfile": Variant("s", "balanced")}
    services.properties[NETWORK_PATH, NETWORK] = {"Metered": Variant("u", 4)}
    services.properties[GAMEMODE_PATH, GAMEMODE] = {"ClientCount": Variant("i", 0)}
    found = read(desktop)
    assert (found.power_saver, found.metered, found.gaming) == (False, False, False)

    services.properties[NETWORK_PATH, NETWORK] = {"Metered": Variant("u", 0)}
    for name in (PROFILES, GAMEMODE, MUTTER):
        services.give_up(name)
    found = read(desktop)
    assert (found.power_saver, found.metered, found.gaming, found.idle_s) == (None, None, None, None)


def test_lid_is_read(services: StandInServices, desktop: LinuxDesktop) -> None:
    services.own(LOGIN)
    assert read(desktop).lid_closed is False
    services.properties[LOGIN_PATH, MANAGER]["LidClosed"] = Variant("b", True)
    assert read(desktop).lid_closed is True


def test_change_of_a_session_is_seen_before_its_turn(services: StandInServices, desktop: LinuxDesktop) -> None:
    add_session(services, 1, ME, IdleHint=Variant("b", True), IdleSinceHint=Variant("t", 900_000_000))
    services.own(LOGIN)
    assert read(desktop, 1000.0).idle_s == 100.0
    path = f"{LOGIN_PATH}/session/_1"
    services.properties[path, SESSION] |= {"IdleHint": Variant("b", False), "IdleSinceHint": Variant("t", 999_000_000)}
    logins = desktop.sources["idle_s"][-1]
    logins.begin(time.monotonic())  # not its turn
    assert desktop.read(1000.0, time.monotonic()).idle_s == 100.0
    changed = [SESSION, {"IdleHint": Variant("b", False)}, []]
    services.signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", changed)

    def seen() -> bool:
        logins.begin(time.monotonic())
        return desktop.read(1000.0, time.monotonic() + 1).idle_s == 0.0

    wait_for(seen)


def test_other_user_in_front_counts(services: StandInServices, desktop: LinuxDesktop) -> None:
    add_session(services, 1, ME, IdleHint=Variant("b", True), IdleSinceHint=Variant("t", 100_000_000))
    add_session(services, 2, OTHER)
    services.own(LOGIN)
    assert read(desktop, 1000.0).idle_s == 0.0
    services.properties[f"{LOGIN_PATH}/session/_2", SESSION]["Active"] = Variant("b", False)
    assert read(desktop, 1000.0).idle_s == 900.0


def test_greeter_is_nobody(services: StandInServices, desktop: LinuxDesktop) -> None:
    add_session(services, 1, 117, Class=Variant("s", "greeter"))
    services.own(LOGIN)
    first = read(desktop).idle_s
    assert first is not None
    assert read(desktop, time.time() + 60).idle_s >= 60


def test_suspending_is_held_up_until_all_is_handed_over(services: StandInServices, desktop: LinuxDesktop) -> None:
    services.own(LOGIN)
    assert read(desktop).suspending is False
    assert len(services.inhibitors) == services.held_locks() == 1

    services.properties[LOGIN_PATH, MANAGER]["PreparingForSleep"] = Variant("b", True)
    services.signal(LOGIN_PATH, MANAGER, "PrepareForSleep", "b", [True])
    source = desktop.sources["suspending"][0]

    def announced() -> bool:
        source.begin(time.monotonic())
        return bool(source.value(time.monotonic() + 1))

    wait_for(announced)
    assert services.held_locks() == 1
    desktop.ready_to_sleep()
    wait_for(lambda: services.held_locks() == 0)

    services.properties[LOGIN_PATH, MANAGER]["PreparingForSleep"] = Variant("b", False)
    services.signal(LOGIN_PATH, MANAGER, "PrepareForSleep", "b", [False])
    wait_for(lambda: not announced())
    wait_for(lambda: len(services.inhibitors) == 2)


def test_bus_that_comes_back_is_joined_again(tmp_path: Path) -> None:
    environ = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
    with private_bus(tmp_path) as address:
        places = Places(
            proc=tmp_path, sys=tmp_path, x_sockets=tmp_path, environ=environ | {"DBUS_SYSTEM_BUS_ADDRESS": address}
        )
        desktop = LinuxDesktop(places, delays_sleep=False)
        services = StandInServices(address)
        services.properties[NETWORK_PATH, NETWORK] = {"Metered": Variant("u", 1)}
        services.own(NETWORK)
        assert read(desktop).metered is True
        services.close()
    assert read(desktop).metered is None
    assert desktop.sources["metered"][0].why == "no system bus"
    desktop.close()
