"""The tray between an icon and a daemon: what is seen of the daemon is shown, what is clicked is done."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peerllm.errors import NotRunning, PeerllmError
from peerllm_tray.actions import Action, AskConsent, OpenChat, Quit, StartDaemon
from peerllm_tray.deeds import Deeds
from peerllm_tray.menu import Face, face
from peerllm_tray.moment import Look, Machine, Moment
from peerllm_tray.notices import Told, notices
from peerllm_tray.plain_text import plain
from peerllm_tray.surface import Notice, Surface
from peerllm_tray.watch import Watch

SurfaceOf = Callable[[Face, Callable[[Action], None], Callable[[], None]], Surface]
"""Given what to show, whom to tell of clicks, and whom to tell that the icon is there."""

_CONSENT = Notice("Nothing is lent yet", "To lend this computer, open the menu of the icon and choose “Contribute …”.")
_FAILED = "That did not work"


class Tray:
    """Its threads watch the daemon and carry out what was clicked; the icon's own thread never waits for either."""

    def __init__(self, deeds: Deeds, machine: Machine) -> None:
        self._deeds = deeds
        self._moment = Moment(machine, time.time(), at_login=deeds.autostart.enabled())
        self._surface: Surface | None = None
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._watch = Watch(deeds.locations, self._seen)
        self._told = Told(shared=deeds.locations.first_share_file.exists())
        self._attached = self._started = False
        self._quitting = threading.Event()

    def show_on(self, surface_of: SurfaceOf) -> bool:
        """Show the icon on the main thread; whether it has to be shown anew, because its host is gone or another."""
        with self._lock:
            self._surface = surface_of(face(self._moment), self._chosen, self._start)
        self._surface.run()
        with self._lock:
            self._surface = None
        return not self._quitting.is_set()

    def leave_surface(self) -> None:
        """Have `show_on` return."""
        with self._lock:
            surface = self._surface
        if surface is not None:
            surface.close()

    def stop(self) -> None:
        if self._started:
            self._watch.stop()

    def _start(self) -> None:
        """Find the daemon, or start one, and follow it: once, and not before the icon, which that would slow down."""
        with self._lock:
            if self._started:
                return
            self._started = True
        self._watch.start()
        threading.Thread(target=self._carry_out_orders, name="tray-orders", daemon=True).start()

    def _quit(self) -> None:
        self._quitting.set()
        self.leave_surface()

    def _chosen(self, action: Action) -> None:
        """Called by the surface, on its own thread."""
        if action == Quit():
            threading.Thread(target=self._quit, name="tray-quit", daemon=True).start()
        else:
            self._orders.put(action)

    def _seen(self, seen: Look | PeerllmError) -> None:
        """Called by the watch. A daemon that was there and went is left alone: its owner may have stopped it."""
        if isinstance(seen, Look):
            self._attached = True
            self._change(look=seen, away="")
            self._tell(seen)
            return
        if isinstance(seen, NotRunning) and not self._attached:
            self._attached = True
            self._orders.put(StartDaemon())
        self._change(look=None, away=str(seen))

    def _tell(self, look: Look) -> None:
        before = self._told
        self._told, found = notices(before, look)
        if self._told.shared and not before.shared:
            self._deeds.locations.first_share_file.touch()
        for notice in found:
            self._notify(notice)

    def _carry_out_orders(self) -> None:
        while not self._quitting.is_set():
            self._carry_out(self._orders.get())

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, AskConsent):
            self._ask_consent()
            return
        self._change(failure="", starting=isinstance(action, StartDaemon))
        try:
            self._deeds.carry_out(action)
        except (PeerllmError, OSError) as error:
            self._change(failure=f"{_FAILED}: {error}")
            self._notify(Notice(_FAILED, plain(str(error))))
        else:
            if isinstance(action, StartDaemon):
                self._change(away="")  # until the next look, which is due
            elif isinstance(action, Quit):
                self._quit()
        finally:
            self._change(starting=False, at_login=self._deeds.autostart.enabled())
            self._watch.hasten()

    def _ask_consent(self) -> None:
        surface = self._surface
        if surface is not None and surface.has_menu:
            surface.notify(_CONSENT)
        else:
            self._orders.put(OpenChat())  # its third screen asks

    def _notify(self, notice: Notice) -> None:
        surface = self._surface
        if surface is not None:
            surface.notify(notice)

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._moment = replace(self._moment, now=time.time(), **changes)
            if self._surface is not None:
                self._surface.show(face(self._moment))
