"""A virtual X screen with a real panel on it, a session bus, a pointer and screenshots."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageGrab
from Xlib import X, Xatom
from Xlib.display import Display
from Xlib.ext import xtest

from tests.support.tray_host import session_bus

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

PANEL_PIXELS = 34
_WIDTH, _HEIGHT = 800, 600
_WITHIN_S = 20.0
_POLL_S = 0.05
_SHADES = 20
"""How far a colour may be from the one that is looked for: panels scale icons."""

_MENU_PIXELS = 120
"""Higher than a tooltip."""

_HOVER_S = 0.15
"""Panels tell a click from a gesture by how long it takes."""

_XFCE = """\
<?xml version="1.0" encoding="UTF-8"?>
<channel name="xfce4-panel" version="1.0">
  <property name="configver" type="int" value="2"/>
  <property name="panels" type="array">
    <value type="int" value="1"/>
    <property name="dark-mode" type="bool" value="true"/>
    <property name="panel-1" type="empty">
      <property name="position" type="string" value="p=6;x=0;y=0"/>
      <property name="length" type="uint" value="100"/>
      <property name="size" type="uint" value="30"/>
      <property name="plugin-ids" type="array"><value type="int" value="1"/><value type="int" value="2"/></property>
    </property>
  </property>
  <property name="plugins" type="empty">
    <property name="plugin-1" type="string" value="separator">
      <property name="expand" type="bool" value="true"/>
      <property name="style" type="uint" value="0"/>
    </property>
    <property name="plugin-2" type="string" value="systray"/>
  </property>
</channel>
"""
_TINT2 = """\
panel_items = S
panel_size = 100% 30
panel_position = top center horizontal
systray_padding = 4 2 4
systray_icon_size = 22
"""


@dataclass(frozen=True)
class Screen:
    """`environment` is that of a program that is to be seen there."""

    environment: dict[str, str]
    display: Display

    def picture(self) -> Image.Image:
        return ImageGrab.grab(xdisplay=self.environment["DISPLAY"]).convert("RGB")

    def find(self, colour: Colour) -> tuple[int, int] | None:
        """The middle of that colour in the panel."""
        panel = self.picture().crop((0, 0, _WIDTH, PANEL_PIXELS))
        bands = ImageChops.difference(panel, Image.new("RGB", panel.size, colour)).split()
        furthest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
        box = furthest.point([255 * (value <= _SHADES) for value in range(256)]).getbbox()
        return ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2) if box else None

    def wait_for(self, colour: Colour) -> tuple[int, int]:
        """Where an icon of that colour is, once it is there."""
        wait_until(lambda: self.find(colour) is not None, f"an icon of colour {colour}")
        found = self.find(colour)
        assert found is not None
        return found

    def hover(self, x: int, y: int) -> None:
        for step in (2, 1, 0):
            xtest.fake_input(self.display, X.MotionNotify, x=x - step, y=y)
            self.display.sync()
            time.sleep(_HOVER_S / 3)

    def click(self, x: int, y: int, button: int = 1) -> None:
        self.hover(x, y)
        for event in (X.ButtonPress, X.ButtonRelease):
            xtest.fake_input(self.display, event, button)
            self.display.sync()
            time.sleep(_HOVER_S)

    def open_menu(self, x: int, y: int) -> Box:
        """Right-click there; where the menu is that came up below the panel."""
        before = self._below_panel()
        self.click(x, y, button=3)
        wait_until(lambda: _height(_changed(before, self._below_panel())) > _MENU_PIXELS, "a menu")
        time.sleep(_HOVER_S)
        return _changed(before, self._below_panel())

    def first_choice(self, menu: Box) -> tuple[int, int]:
        """Where the first row is that lights up under the pointer: the one before are to be read only."""
        left, top, _, bottom = menu
        for y in range(top + 6, bottom, 6):
            before = self.picture()
            self.hover(left + 60, y)
            if before.getpixel((left + 8, y)) != self.picture().getpixel((left + 8, y)):
                return left + 60, y
        raise AssertionError("nothing in this menu can be chosen")

    def _below_panel(self) -> Image.Image:
        picture = self.picture()
        picture.paste((0, 0, 0), (0, 0, _WIDTH, PANEL_PIXELS))
        return picture


@contextmanager
def screen(home: Path) -> Iterator[Screen]:
    """An empty screen and a session bus of its own; skips the test where they cannot be had."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb (apt: xvfb)")
    settings = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_RUNTIME_DIR": str(home / "run")}
    (home / "run").mkdir(mode=0o700, parents=True)
    environment = {**os.environ, **settings, "NO_AT_BRIDGE": "1", "GTK_THEME": "Adwaita:dark"}
    environment.pop("WAYLAND_DISPLAY", None)
    line = ["Xvfb", "-displayfd", "1", "-screen", "0", f"{_WIDTH}x{_HEIGHT}x24", "-nolisten", "tcp"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            environment["DISPLAY"] = f":{server.stdout.readline().strip()}"
            with session_bus(environment) as bus:
                display = Display(environment["DISPLAY"])
                yield Screen({**environment, "DBUS_SESSION_BUS_ADDRESS": bus}, display)
                display.close()
        finally:
            server.terminate()


@contextmanager
def xfce_panel(on: Screen) -> Iterator[None]:
    """A panel that shows StatusNotifierItems."""
    channels = Path(on.environment["XDG_CONFIG_HOME"]) / "xfce4" / "xfconf" / "xfce-perchannel-xml"
    channels.mkdir(parents=True)
    (channels / "xfce4-panel.xml").write_text(_XFCE)
    with _panel(on, "xfce4-panel", "--disable-wm-check"):
        yield


@contextmanager
def tint2(on: Screen) -> Iterator[None]:
    """A panel with an X system tray."""
    config = Path(on.environment["HOME"]) / "tint2rc"
    config.write_text(_TINT2)
    desktops = on.display.intern_atom("_NET_NUMBER_OF_DESKTOPS")
    on.display.screen().root.change_property(desktops, Xatom.CARDINAL, 32, [1])  # for which tint2 else waits 15 s
    on.display.sync()
    with _panel(on, "tint2", "-c", str(config)):
        yield


@contextmanager
def _panel(on: Screen, *line: str) -> Iterator[None]:
    if shutil.which(line[0]) is None:
        pytest.skip(f"needs {line[0]} (apt: {line[0]})")
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(line, env=on.environment, stdout=nowhere, stderr=nowhere) as panel:
        try:
            yield
        finally:
            panel.terminate()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"there never was {what}")
        time.sleep(_POLL_S)


def _changed(before: Image.Image, after: Image.Image) -> Box:
    return ImageChops.difference(before, after).getbbox() or (0, 0, 0, 0)


def _height(box: Box) -> int:
    return box[3] - box[1]
