"""The X server: how long its keyboard and pointers have been still, and whether a program fills the screen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from peerllm.serving.readers.source import Unreadable

if TYPE_CHECKING:
    from Xlib.display import Display

T = TypeVar("T")

ONLY_PART = "X serves only some windows of this Wayland desktop"

NAMELESS = "a full-screen program"


class Screen:
    """One connection to the user's X server, made anew after it went away. Belongs to one thread, which may hang."""

    def __init__(self, displays: Callable[[], Iterable[str]]) -> None:
        """`displays` names those of this user, likeliest first."""
        self._displays = displays
        self._display: Display | None = None
        self._in_wayland = False

    def idle_s(self) -> float:
        """Seconds since the last key or pointer event of any device."""
        idle_s = self._ask(_idle_s)
        if self._in_wayland:
            raise Unreadable(ONLY_PART)
        return idle_s

    def full_screen(self) -> str:
        """The class of the active window if it fills the screen, else ""."""
        name = self._ask(_full_screen)
        if self._in_wayland and not name:
            raise Unreadable(ONLY_PART)
        return name

    def close(self) -> None:
        if self._display is not None:
            display, self._display = self._display, None
            with contextlib.suppress(Exception):  # it may be gone already
                display.close()

    def _ask(self, question: Callable[[Display], T]) -> T:
        display = self._display or self._connect()
        try:
            return question(display)
        except Unreadable:
            raise
        except Exception as error:  # python-xlib's own, OSError or struct.error, as the server goes away
            self.close()
            raise Unreadable("the X server went away") from error

    def _connect(self) -> Display:
        from Xlib.display import Display

        why = "no X server"
        for name in self._displays():
            try:
                self._display = Display(name)
                self._in_wayland = _is_xwayland(self._display)
            except Exception as error:  # no such display, not allowed, or no X server at all
                self.close()
                why = f"X server {name}: {error}".strip(": ")
            else:
                return self._display
        raise Unreadable(why)


def use_cookies(file: str) -> None:
    """Where python-xlib is to find the cookies of the user's X server; it takes them from nowhere but the environment.

    A daemon that systemd started has no such variable.
    """
    os.environ.setdefault("XAUTHORITY", file)


def _is_xwayland(display: Display) -> bool:
    """Before Xwayland 23.1 only the names of its outputs tell."""
    extension = display.query_extension("XWAYLAND")
    if extension is not None and extension.present:
        return True
    if not display.has_extension("RANDR"):
        return False
    resources = display.screen().root.xrandr_get_screen_resources()
    names = (display.xrandr_get_output_info(output, resources.config_timestamp).name for output in resources.outputs)
    return any(name.startswith("XWAYLAND") for name in names)


def _idle_s(display: Display) -> float:
    if not display.has_extension("MIT-SCREEN-SAVER"):
        raise Unreadable("the X server has no screen saver extension")
    return display.screen().root.screensaver_query_info().idle / 1000


def _full_screen(display: Display) -> str:
    """Source: Extended Window Manager Hints, _NET_ACTIVE_WINDOW and _NET_WM_STATE."""
    from Xlib import X, Xatom
    from Xlib.error import BadWindow

    active = display.screen().root.get_full_property(display.intern_atom("_NET_ACTIVE_WINDOW"), X.AnyPropertyType)
    if active is None:
        raise Unreadable("no window manager says which window is active")
    if not active.value or not active.value[0]:
        return ""
    window = display.create_resource_object("window", active.value[0])
    try:
        states = window.get_full_property(display.intern_atom("_NET_WM_STATE"), Xatom.ATOM)
        if states is None or display.intern_atom("_NET_WM_STATE_FULLSCREEN") not in states.value:
            return ""
        name = window.get_wm_class()
    except BadWindow:
        return ""  # closed meanwhile
    return name[1] if name else NAMELESS
