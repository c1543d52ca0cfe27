"""Show the tray where it can be seen, for as long as the session lasts: panels crash, restart and are replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from peerllm.errors import NoTerminal
from peerllm_tray.actions import Action
from peerllm_tray.app import Tray
from peerllm_tray.backend import Backend, Probe, choose, moved, why_none
from peerllm_tray.menu import Face
from peerllm_tray.probing import probe
from peerllm_tray.surface import Surface

LOOK_AGAIN_S = 10.0

_POLL_S = 0.5
_CALM_S = 2.0
"""Between two icons: a panel that ends takes its time, and one that refuses must not be pressed."""


def first_host(wait_s: float) -> Probe:
    """What is here, once a host for the icon is; raises `NoTerminal` if none came in time."""
    deadline = time.monotonic() + wait_s
    while choose(found := probe()) is None:
        if time.monotonic() >= deadline:
            raise NoTerminal(why_none(found))
        time.sleep(_POLL_S)
    return found


def show(tray: Tray, found: Probe, wanted: Backend | None = None) -> None:
    """Show it until its owner quits or logs out; raises `NoTerminal`.

    Args:
        found: what `first_host` has found.
        wanted: this kind of icon, whatever the hosts.
    """
    while found.session:
        backend = wanted or choose(found)
        if backend is None:
            time.sleep(LOOK_AGAIN_S)
        elif not _show_once(tray, found, backend, follow=wanted is None):
            return
        else:
            time.sleep(_CALM_S)
        found = probe()


def _show_once(tray: Tray, found: Probe, backend: Backend, *, follow: bool) -> bool:
    """Whether it has to be shown again."""
    gone = threading.Event()
    if follow and found.platform == "linux":
        threading.Thread(target=_follow_host, args=(tray, found, gone), name="tray-host", daemon=True).start()
    try:
        return tray.show_on(partial(surface_of, backend))
    finally:
        gone.set()


def surface_of(backend: Backend, face: Face, chosen: Callable[[Action], None], shown: Callable[[], None]) -> Surface:
    """An icon of that kind; raises `NoTerminal` if pystray cannot show it."""
    if backend == "sni":
        from peerllm_tray.notifier_surface import NotifierSurface

        return NotifierSurface(face, chosen, shown)
    from peerllm_tray.pystray_surface import PystraySurface

    return PystraySurface(backend, face, chosen, shown)


def _follow_host(tray: Tray, found: Probe, gone: threading.Event) -> None:
    """A StatusNotifierWatcher that comes back is greeted by the icon itself; any other change means a new icon."""
    while not gone.wait(LOOK_AGAIN_S):
        if moved(found, probe()):
            tray.leave_surface()
            return
