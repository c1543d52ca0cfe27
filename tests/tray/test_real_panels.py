"""The real tray in real panels on a virtual screen: seen in a screenshot, and clicked with the pointer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("Xlib")
pytest.importorskip("dbus_fast")

from peerllm.config import ApiConfig, Config
from tests.support.real_screen import Screen, screen, tint2, wait_until, xfce_panel
from tests.support.running_api import RunningApi, running_api
from tests.support.screens import places, publish_api

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

GREY, GREEN = (139, 146, 156), (38, 162, 94)
ANY_PORT = replace(Config(), api=ApiConfig(port=0))
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(ANY_PORT) as running:
        publish_api(running, tmp_path)
        asyncio.run(running.node.guest.share(True))
        places(tmp_path).first_share_file.touch()  # or a bubble tells of it, over the menu
        yield running


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Screen]:
    with screen(tmp_path / "desktop") as on:
        yield on


@contextmanager
def tray(on: Screen, home: Path, packages: Path | None = None) -> Iterator[None]:
    """Waits for its panel, as at login."""
    environment = {**on.environment, "PEERLLM_HOME": str(home), "PYTHONPATH": str(packages or "")}
    with subprocess.Popen([sys.executable, "-m", "peerllm", "tray", "--wait", "20"], env=environment) as process:
        try:
            yield
        finally:
            process.kill()


def test_xfce_shows_the_icon_and_its_menu_turns_sharing_off(desktop: Screen, api: RunningApi, tmp_path: Path) -> None:
    guest = api.node.guest
    with xfce_panel(desktop), tray(desktop, tmp_path):
        icon = desktop.wait_for(GREEN)
        menu = desktop.open_menu(*icon)
        desktop.click(*desktop.first_choice(menu))
        wait_until(lambda: not guest.sharing, "an order to stop")
        desktop.wait_for(GREY)
        desktop.click(*icon)
        wait_until(lambda: guest.sharing, "an order to share")
        desktop.wait_for(GREEN)


def test_x_tray_without_gtk_has_an_icon_that_takes_clicks(desktop: Screen, api: RunningApi, tmp_path: Path) -> None:
    with tint2(desktop), tray(desktop, tmp_path):
        icon = desktop.wait_for(GREEN)
        desktop.click(*icon)
        wait_until(lambda: not api.node.guest.sharing, "an order to stop")
        desktop.wait_for(GREY)


def test_x_tray_with_gtk_has_clicks_and_a_menu(desktop: Screen, api: RunningApi, tmp_path: Path) -> None:
    packages = _gtk(tmp_path)
    with tint2(desktop), tray(desktop, tmp_path, packages):
        icon = desktop.wait_for(GREEN)
        desktop.click(*icon)
        wait_until(lambda: not api.node.guest.sharing, "an order to stop")
        desktop.wait_for(GREY)
        menu = desktop.open_menu(*icon)
        desktop.click(*desktop.first_choice(menu))
        wait_until(lambda: api.node.guest.sharing, "an order to share")


def _gtk(folder: Path) -> Path:
    """A folder with the system's PyGObject alone; skips the test where this Python cannot use it."""
    packages = folder / "packages"
    packages.mkdir()
    (packages / "gi").symlink_to(SYSTEM_PACKAGES / "gi")
    check = [sys.executable, "-c", "import gi; gi.require_version('Gtk', '3.0')"]
    if subprocess.run(check, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True).returncode:
        pytest.skip("needs PyGObject of this Python's version and GTK 3 (apt: python3-gi, gir1.2-gtk-3.0)")
    return packages
