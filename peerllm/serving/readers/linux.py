"""The desktop of a Linux machine: the X server, and what D-Bus knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from peerllm.serving.readers import services
from peerllm.serving.readers.bus import DEADLINE_S, Bus, BusThread
from peerllm.serving.readers.desktop import DesktopReadings
from peerllm.serving.readers.displays import cookies, session_environment, x_displays
from peerllm.serving.readers.idle import user_idle_s
from peerllm.serving.readers.logind import LoginReader
from peerllm.serving.readers.places import Places
from peerllm.serving.readers.screen import Screen, use_cookies
from peerllm.serving.readers.sleep import SleepWatch
from peerllm.serving.readers.source import Apart, Source, here
from peerllm.serving.readers.wayland import WaylandIdle, compositors

FAST_S, SLOW_S = 1.0, 10.0


class LinuxDesktop:
    """A `Desktop`: what changes with a touch is asked each second, the rest when it says so or every ten."""

    def __init__(self, places: Places, *, delays_sleep: bool) -> None:
        self._places = places
        self._login_display = ""
        self._buses = BusThread()
        self._system, self._session = Bus("system bus", places.system_bus), Bus("session bus", places.session_bus)
        login = LoginReader(self._system, time.time, self._hurry)
        self._sleep = SleepWatch(self._system, self._hurry, delays=delays_sleep)
        self._screen_thread, self._wayland_thread = Apart("screen"), Apart("Wayland")
        self._screen = Screen(self._displays)
        self._wayland = WaylandIdle(lambda: compositors(places, self._told()))
        on_bus, on_screen = self._buses.ask, self._screen_thread.ask
        self._x_idle = Source("X screen saver", on_screen(self._screen.idle_s), every_s=FAST_S)
        self._gnome_idle = Source("GNOME", on_bus(lambda: services.gnome_idle_s(self._session)), every_s=FAST_S)
        self._wayland_idle = Source("Wayland", self._wayland_thread.ask(self._wayland.idle_s), every_s=FAST_S)
        self._logins = Source("logind", on_bus(login.logins), every_s=SLOW_S / 2)
        self._profile = Source("power profiles", on_bus(lambda: services.saver_profile(self._system)), every_s=SLOW_S)
        self._firmware = Source("firmware", here(lambda: services.saver_firmware(places.sys)), every_s=SLOW_S)
        self._metered = Source("NetworkManager", on_bus(lambda: services.metered(self._system)), every_s=SLOW_S)
        self._full_screen = Source("X active window", on_screen(self._screen.full_screen), every_s=FAST_S)
        self._gaming = Source("GameMode", on_bus(lambda: services.gaming(self._session)), every_s=SLOW_S / 2)
        self._lid = Source("logind", on_bus(login.lid_closed), every_s=SLOW_S / 2)
        self._lid_button = Source("ACPI button", here(lambda: services.lid_button(places.proc)), every_s=SLOW_S / 2)
        self._suspending = Source("logind", on_bus(self._sleep.suspending), every_s=SLOW_S)

    @property
    def sources(self) -> dict[str, tuple[Source[Any], ...]]:
        return {
            "idle_s": (self._x_idle, self._gnome_idle, self._wayland_idle, self._logins),
            "power_saver": (self._profile, self._firmware),
            "metered": (self._metered,),
            "exclusive": (self._full_screen, self._gaming),
            "lid_closed": (self._lid, self._lid_button),
            "suspending": (self._suspending,),
        }

    def read(self, now: float, until_s: float) -> DesktopReadings:
        logins = self._logins.value(until_s)
        self._login_display = logins.display(self._places.user_id) if logins else ""
        desktop = [source.value(until_s) for source in (self._x_idle, self._gnome_idle, self._wayland_idle)]
        return DesktopReadings(
            idle_s=user_idle_s(desktop, logins, self._places.user_id, now),
            power_saver=_any(self._profile.value(until_s), self._firmware.value(until_s)),
            metered=self._metered.value(until_s),
            full_screen=self._full_screen.value(until_s),
            gaming=self._gaming.value(until_s),
            lid_closed=_first(self._lid.value(until_s), self._lid_button.value(until_s)),
            suspending=self._suspending.value(until_s),
        )

    def ready_to_sleep(self) -> None:
        self._buses.run(self._sleep.let_sleep)

    def close(self) -> None:
        self._screen_thread.close(self._screen.close)
        self._wayland_thread.close(self._wayland.close)
        self._buses.run(self._sleep.let_sleep)
        self._buses.close(self._system, self._session)

    def _hurry(self) -> None:
        """Something of a session, or of the machine's sleep, has changed."""
        self._logins.hurry()
        self._suspending.hurry()

    def _told(self) -> dict[str, str]:
        """What the user's systemd knows of their desktop; on a thread that may wait."""
        try:
            return self._buses.ask(lambda: session_environment(self._session))().result(2 * DEADLINE_S)
        except Exception:  # no bus, no systemd, no dbus-fast: there are other places to look
            return {}

    def _displays(self) -> Iterator[str]:
        """On the screen's thread."""
        told = self._told()
        if file := cookies(self._places, told):
            use_cookies(file)
        yield from x_displays(self._places, told, self._login_display)


def _any(*answers: bool | None) -> bool | None:
    known = [answer for answer in answers if answer is not None]
    return any(known) if known else None


def _first(*answers: bool | None) -> bool | None:
    return next((answer for answer in answers if answer is not None), None)
