"""An X server without a screen, and what happens on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_LIMIT_S = 20.0


@contextlib.contextmanager
def x_server(*options: str) -> Iterator[str]:
    """The name of its display. The server looks for a free one itself."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed (apt install xvfb)")
    ours, theirs = os.pipe()
    command = ["Xvfb", "-displayfd", str(theirs), "-screen", "0", "320x200x24", "-nolisten", "tcp", *options]
    server = subprocess.Popen(command, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    try:
        with os.fdopen(ours) as told:
            number = told.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(_LIMIT_S)


def move_pointer(display: str) -> None:
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed (apt install xdotool)")
    environ = os.environ | {"DISPLAY": display}
    for position in ("10", "60"):  # a move to where it is would be none
        subprocess.run(["xdotool", "mousemove", position, position], env=environ, check=True, timeout=_LIMIT_S)
