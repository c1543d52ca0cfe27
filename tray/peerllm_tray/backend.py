"""Which kind of icon this desktop can show. Pure; `probe` looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Backend = Literal["sni", "appindicator", "gtk", "xorg", "win32", "darwin"]
"""Our own StatusNotifierItem, or one of pystray's icons; `appindicator` only for who asks for it."""

BACKENDS: tuple[Backend, ...] = ("sni", "appindicator", "gtk", "xorg", "win32", "darwin")


@dataclass(frozen=True)
class Probe:
    """What there is: hosts that show icons, and what is installed to draw one there."""

    platform: str
    """As `sys.platform`."""

    session: bool = True
    """False once neither a session bus nor an X display answers: the owner has logged out."""
    sni_host: bool = False
    """Somebody on the session bus shows StatusNotifierItems."""
    xembed_host: bool = False
    """The X screen has a system tray."""
    dbus: bool = False
    gtk: bool = False
    pystray: bool = False


def choose(probe: Probe) -> Backend | None:
    """The best icon that can be seen here; None if none can. Why in this order: docs/adr/0019-the-tray.md."""
    if probe.platform in ("win32", "darwin"):
        return _native(probe)
    if probe.sni_host and probe.dbus:
        return "sni"
    if probe.xembed_host and probe.pystray:
        return "gtk" if probe.gtk else "xorg"
    return None


def moved(before: Probe, now: Probe) -> bool:
    """Whether the icon has to be shown anew: another kind of host is there. One that is gone may come back."""
    return choose(now) not in (None, choose(before))


def why_none(probe: Probe) -> str:
    """What is missing and what to do, for the owner who asked for a tray."""
    if probe.platform in ("win32", "darwin") or probe.sni_host or probe.xembed_host:
        return "what draws the icon is not installed: `pip install 'peerllm[desktop]'`"
    return (
        "no tray on this desktop (nothing shows StatusNotifierItems, and no X system tray). peerllm does not need one: "
        "`peerllm up`, `peerllm share on|off` and `peerllm chat` do the same. On GNOME install "
        "gnome-shell-extension-appindicator"
    )


def _native(probe: Probe) -> Backend | None:
    if not probe.pystray:
        return None
    return "win32" if probe.platform == "win32" else "darwin"
