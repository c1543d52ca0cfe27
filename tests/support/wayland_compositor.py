"""A real Wayland compositor without a screen, and a pointer that moves on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerllm.serving.readers.wayland_wire import Wire

_LIMIT_S = 20.0
_NOBODY = 65534

_NOT_AS_ROOT = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


@contextlib.contextmanager
def compositor() -> Iterator[Path]:
    """Its socket. It is sway, which does not run as root."""
    as_root = os.getuid() == 0
    for program, package in (("sway", "sway"), *((("setpriv", "util-linux"),) if as_root else ())):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt install {package})")
    with tempfile.TemporaryDirectory(prefix="wayland-") as name:
        folder = Path(name)
        (folder / "config").write_text("xwayland disable\n")
        if as_root:
            os.chown(folder, _NOBODY, _NOBODY)
        environ = os.environ | {
            "HOME": name,
            "XDG_RUNTIME_DIR": name,
            "WLR_BACKENDS": "headless",
            "WLR_RENDERER": "pixman",
            "WLR_LIBINPUT_NO_DEVICES": "1",
        }
        environ.pop("WAYLAND_DISPLAY", None)
        command = [*(_NOT_AS_ROOT if as_root else ()), "sway", "--config", str(folder / "config")]
        with subprocess.Popen(
            command, env=environ, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as sway:
            try:
                yield _socket(folder, sway)
            finally:
                sway.kill()


def move_pointer(socket: Path) -> None:
    """By wlr-virtual-pointer-unstable-v1."""
    wire = Wire(socket)
    offers = {offer.interface: offer for offer in wire.offers()}
    manager, pointer = wire.bind(offers["zwlr_virtual_pointer_manager_v1"]), wire.new_object()
    wire.send(manager, 0, struct.pack("=II", 0, pointer))
    wire.send(pointer, 0, struct.pack("=Iii", 0, 5 << 8, 5 << 8))  # motion
    wire.send(pointer, 4, b"")  # frame
    wire.send(1, 0, struct.pack("=I", wire.new_object()))  # answered when all of it is done; who leaves is not heard
    wire.received(wait=True)
    wire.close()


def _socket(folder: Path, sway: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + _LIMIT_S
    while not (found := [file for file in folder.glob("wayland-*") if file.is_socket()]):
        if sway.poll() is not None:
            pytest.skip("sway does not start here")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]
