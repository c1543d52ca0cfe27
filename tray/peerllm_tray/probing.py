"""Look for a host that shows icons, and for what draws one there."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys

from peerllm_tray.backend import Probe

_SNI_S = 1.0


def probe() -> Probe:
    """What is here now. The X display is asked only where no StatusNotifierWatcher runs: that takes longer."""
    pystray = _installed("pystray") and _installed("PIL")
    if sys.platform in ("win32", "darwin"):
        return Probe(sys.platform, pystray=pystray)
    dbus = _installed("dbus_fast") and _installed("PIL")
    sni_host = _sni_host() if dbus else None
    if sni_host:
        return Probe(sys.platform, sni_host=True, dbus=dbus, pystray=pystray)
    xembed_host = _xembed_host() if _installed("Xlib") else None
    return Probe(
        sys.platform,
        session=sni_host is not None or xembed_host is not None,
        xembed_host=bool(xembed_host),
        dbus=dbus,
        gtk=sni_host is not None and _has_gtk(),  # pystray's gtk icon fails without a session bus
        pystray=pystray,
    )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _sni_host() -> bool | None:
    """Whether there is a StatusNotifierWatcher; None without a session bus."""
    from peerllm_tray.session_bus import WATCHER, BusRefused, connect, has_owner

    async def ask() -> bool:
        bus = await connect()
        try:
            return await has_owner(bus, WATCHER)
        finally:
            bus.disconnect()

    try:
        return asyncio.run(asyncio.wait_for(ask(), _SNI_S))
    except (BusRefused, TimeoutError):
        return None


def _xembed_host() -> bool | None:
    """Whether somebody owns the tray selection of the default screen; None without a display."""
    from Xlib import X, display, error

    try:
        screen = display.Display()
    except (error.DisplayError, error.ConnectionClosedError, OSError):
        return None
    try:
        owner = screen.get_selection_owner(screen.intern_atom(f"_NET_SYSTEM_TRAY_S{screen.get_default_screen()}"))
        return owner != X.NONE
    finally:
        screen.close()


def _has_gtk() -> bool:
    """pystray's gtk icon needs PyGObject and GTK 3, which come from the distribution and not from PyPI."""
    try:
        importlib.import_module("gi").require_version("Gtk", "3.0")
    except (ImportError, ValueError):
        return False
    return True
