"""Idle time and full-screen programs, on a real X server."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as StillAsking
from pathlib import Path

import pytest

pytest.importorskip("Xlib")

from Xlib import X, Xatom
from Xlib.display import Display

from peerllm.serving.readers.displays import cookies, x_displays
from peerllm.serving.readers.places import Places
from peerllm.serving.readers.screen import Screen
from peerllm.serving.readers.source import Apart, Source, Unreadable
from tests.support.x_server import move_pointer, x_server

LIMIT_S = 20.0


@pytest.fixture
def display() -> Iterator[str]:
    with x_server() as name:
        yield name


@pytest.fixture
def screen(display: str) -> Iterator[Screen]:
    found = Screen(lambda: [display])
    yield found
    found.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_idle_time_grows_and_falls_with_a_touch(display: str, screen: Screen) -> None:
    wait_for(lambda: screen.idle_s() > 0.5)
    before = time.monotonic()
    move_pointer(display)
    assert screen.idle_s() <= time.monotonic() - before
    wait_for(lambda: screen.idle_s() > 0.1)


def test_without_a_window_manager_full_screen_is_unknown(screen: Screen) -> None:
    with pytest.raises(Unreadable, match="no window manager"):
        screen.full_screen()


def test_active_window_over_the_whole_screen_is_named(display: str, screen: Screen) -> None:
    """The test says of its window what a window manager would."""
    client = Display(display)
    root = client.screen().root
    window = root.create_window(0, 0, 320, 200, 0, X.CopyFromParent)
    window.set_wm_class("game", "Some Game")
    window.map()
    full_screen, state = client.intern_atom("_NET_WM_STATE_FULLSCREEN"), client.intern_atom("_NET_WM_STATE")
    active = client.intern_atom("_NET_ACTIVE_WINDOW")

    root.change_property(active, Xatom.WINDOW, 32, [X.NONE])
    client.sync()
    assert screen.full_screen() == ""

    root.change_property(active, Xatom.WINDOW, 32, [window.id])
    client.sync()
    assert screen.full_screen() == ""

    window.change_property(state, Xatom.ATOM, 32, [full_screen])
    client.sync()
    assert screen.full_screen() == "Some Game"

    window.destroy()
    client.sync()
    assert screen.full_screen() == ""
    client.close()


def test_server_that_goes_away_is_unreadable_and_the_next_is_found() -> None:
    environ: dict[str, str] = {}
    screen = Screen(lambda: x_displays(Places(environ=environ, user_id=-1), {}, ""))
    with pytest.raises(Unreadable, match="no X server"):
        screen.idle_s()
    with x_server() as name:
        environ["DISPLAY"] = name
        assert screen.idle_s() >= 0
    with pytest.raises(Unreadable, match="went away"):
        screen.idle_s()
    with pytest.raises(Unreadable, match="no X server"):
        screen.idle_s()
    with x_server() as name:
        environ["DISPLAY"] = name
        assert screen.idle_s() >= 0
        screen.close()


def test_server_without_the_extension_is_unreadable() -> None:
    with x_server("-extension", "MIT-SCREEN-SAVER") as name:
        screen = Screen(lambda: [name])
        with pytest.raises(Unreadable, match="extension"):
            screen.idle_s()
        screen.close()


def test_frozen_server_holds_nobody_up() -> None:
    with x_server() as name:
        import psutil

        screen, apart = Screen(lambda: [name]), Apart("screen")
        source = Source("X", apart.ask(screen.idle_s), every_s=0.0)
        source.begin(time.monotonic())
        assert source.value(time.monotonic() + LIMIT_S) is not None
        server = next(child for child in psutil.Process().children() if child.name() == "Xvfb")
        server.send_signal(signal.SIGSTOP)
        try:
            source.begin(time.monotonic())
            asked = time.monotonic()
            source.value(asked + 0.05)
            assert time.monotonic() - asked < LIMIT_S / 2
            with pytest.raises(StillAsking):
                apart.ask(lambda: None)().result(0.05)
        finally:
            server.send_signal(signal.SIGCONT)
        assert source.value(time.monotonic() + LIMIT_S) is not None
        apart.close(screen.close)


def test_display_is_found_without_being_told(tmp_path: Path) -> None:
    def found(user_id: int, told: dict[str, str] | None = None, login: str = "", **environ: str) -> list[str]:
        return list(x_displays(Places(x_sockets=tmp_path, environ=environ, user_id=user_id), told or {}, login))

    me = tmp_path.stat().st_uid
    (tmp_path / "X8").touch()
    assert found(me) == []  # it is no socket
    (tmp_path / "not one").touch()
    with socket.socket(socket.AF_UNIX) as five, socket.socket(socket.AF_UNIX) as seven:
        five.bind(str(tmp_path / "X5"))
        (tmp_path / "X8").unlink()
        assert found(me) == [":5"]
        assert found(me, {"DISPLAY": ":8"}, DISPLAY="localhost:10.0") == [":5"]
        seven.bind(str(tmp_path / "X7"))
        assert found(me) == []  # which of them, nobody says
        assert found(me, {"DISPLAY": ":7.0"}, ":5") == [":7.0", ":5"]
        assert found(me + 1, DISPLAY=":7") == [":7"]
        assert found(me + 1) == []


def test_cookies_are_found_where_display_managers_put_them(tmp_path: Path) -> None:
    places = Places(environ={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert cookies(places, {}) == ""
    (tmp_path / "gdm").mkdir()
    (tmp_path / "gdm" / "Xauthority").touch()
    assert cookies(places, {}) == str(tmp_path / "gdm" / "Xauthority")
    assert cookies(places, {"XAUTHORITY": "/told"}) == "/told"
