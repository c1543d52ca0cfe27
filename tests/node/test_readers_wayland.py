"""Idle time on Wayland, from a real compositor."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peerllm.serving.readers.places import Places
from peerllm.serving.readers.source import Unreadable
from peerllm.serving.readers.wayland import WaylandIdle, compositors
from tests.support.wayland_compositor import compositor, move_pointer

LIMIT_S = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_idle_time_grows_falls_with_a_touch_and_ends_with_the_compositor(request: pytest.FixtureRequest) -> None:
    with compositor() as path:
        idle = WaylandIdle(lambda: [path])
        request.addfinalizer(idle.close)
        assert idle.idle_s() == 0.0
        wait_for(lambda: idle.idle_s() > 1.1)
        move_pointer(path)
        wait_for(lambda: idle.idle_s() == 0.0)
        wait_for(lambda: idle.idle_s() >= 1.0)
    with pytest.raises(Unreadable, match="went away"):
        idle.idle_s()
    with pytest.raises(Unreadable):
        idle.idle_s()


def test_compositor_is_found_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "wayland-0.lock").touch()
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(tmp_path / "wayland-0"))
        second.bind(str(tmp_path / "wayland-1"))
        environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
        assert [path.name for path in compositors(Places(environ=environ), {})] == ["wayland-0", "wayland-1"]
        named = Places(environ=environ | {"WAYLAND_DISPLAY": "wayland-1"})
        assert [path.name for path in compositors(named, {})] == ["wayland-1", "wayland-0"]
        absolute = {"WAYLAND_DISPLAY": str(tmp_path / "wayland-1")}
        assert next(compositors(Places(environ=environ), absolute)).name == "wayland-1"


@pytest.mark.parametrize("answer", [b"", b"no Wayland at all", bytes(8), b"\x02\0\0\0\0\0\xff\xff" + bytes(70000)])
def test_what_is_no_compositor_is_unreadable(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "wayland-0"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(Unreadable):
            WaylandIdle(lambda: [path]).idle_s()
        serving.join()
