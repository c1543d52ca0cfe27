"""How long a Wayland desktop's keyboard and pointers have been still: KDE, sway and others tell those who ask.

Sources: ext-idle-notify-v1, and org_kde_kwin_idle before it. GNOME has neither.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from peerllm.serving.readers.places import Places
from peerllm.serving.readers.source import Unreadable
from peerllm.serving.readers.wayland_wire import Wire

STILL_MS = 1000
"""After so long without an event the compositor says that a seat is idle."""

_REQUESTS = {"ext_idle_notifier_v1": (1, False), "org_kde_kwin_idle": (0, True)}
"""The best first: the number of the request to be told, and whether the seat comes before the time in it."""

_IDLED = 0
"""The event; the other one, 1, is "resumed" in both protocols."""


class WaylandIdle:
    """One connection without windows, made anew after it broke. Belongs to one thread, which may wait for it."""

    def __init__(self, sockets: Callable[[], Iterable[Path]]) -> None:
        """`sockets` gives those of this user's compositors, likeliest first."""
        self._sockets = sockets
        self._wire: Wire | None = None
        self._still_since: dict[int, float | None] = {}  # who tells of a seat -> monotonic time, None: it is in use

    def idle_s(self) -> float:
        """Of the seat used last; counted from the connection on, as nobody tells what was before."""
        wire = self._wire or self._connect()
        try:
            events = wire.received()
        except OSError as error:
            self.close()
            raise Unreadable("the Wayland compositor went away") from error
        now_s = time.monotonic()
        for sender, event, _ in events:
            if sender in self._still_since:
                self._still_since[sender] = now_s - STILL_MS / 1000 if event == _IDLED else None
        return min(0.0 if since_s is None else now_s - since_s for since_s in self._still_since.values())

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _connect(self) -> Wire:
        why = "no Wayland compositor"
        for path in self._sockets():
            try:
                self._wire = Wire(path)
                self._still_since = dict.fromkeys(_told_of_each_seat(self._wire))
            except (Unreadable, OSError) as error:
                self.close()
                why = str(error)
            else:
                return self._wire
        raise Unreadable(why)


def compositors(places: Places, told: Mapping[str, str]) -> Iterator[Path]:
    """Sockets of this user's compositors, each once; `told` is the environment of the user's systemd."""
    folder = places.runtime_dir
    named = [folder / name for each in (places.environ, told) if (name := each.get("WAYLAND_DISPLAY"))]
    found = sorted(file for file in folder.glob("wayland-*") if file.suffix != ".lock")
    yield from (file for file in dict.fromkeys([*named, *found]) if file.is_socket())


def _told_of_each_seat(wire: Wire) -> list[int]:
    """Ask to be told; the objects whose events tell."""
    offers = wire.offers()
    seats = [wire.bind(offer) for offer in offers if offer.interface == "wl_seat"]
    notifiers = [offer for interface in _REQUESTS for offer in offers if offer.interface == interface]
    if not seats or not notifiers:
        raise Unreadable("the Wayland compositor tells no idle time")
    notifier = wire.bind(notifiers[0])
    return [_told_of(seat, wire, notifier, *_REQUESTS[notifiers[0].interface]) for seat in seats]


def _told_of(seat: int, wire: Wire, notifier: int, request: int, seat_first: bool) -> int:
    told = wire.new_object()
    what = (seat, STILL_MS) if seat_first else (STILL_MS, seat)
    wire.send(notifier, request, struct.pack("=III", told, *what))
    return told
