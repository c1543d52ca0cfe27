"""Which X server is this user's: a daemon that systemd, cron or ssh started is not told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from peerllm.serving.readers.bus import Bus
from peerllm.serving.readers.places import Places

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")

_COOKIES = ("gdm/Xauthority", "xauth_*", ".mutter-Xwaylandauth.*")
"""Of GDM, SDDM and GNOME on Wayland, in the user's runtime folder; the others keep them in ~/.Xauthority."""


async def session_environment(session_bus: Bus) -> dict[str, str]:
    """What the desktop told the user's systemd of itself when it started."""
    lines: list[str] = await session_bus.property(*_MANAGER, "Environment")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def x_displays(places: Places, told: Mapping[str, str], login_display: str) -> Iterator[str]:
    """Names of X displays of servers on this machine, likeliest first, each once.

    A display that ssh forwards is on another machine: whoever sits there is not the one who is to be spared.

    Args:
        told: the environment of the user's systemd, {} if there is none.
        login_display: of the user's session in logind, "" if there is none.
    """
    named = [places.environ.get("DISPLAY", ""), told.get("DISPLAY", ""), login_display, *_own_sockets(places)]
    yield from (name for name in dict.fromkeys(named) if _is_served(name, places.x_sockets))


def cookies(places: Places, told: Mapping[str, str]) -> str:
    """The file that holds the secrets of the user's X servers; "" for the usual one."""
    if named := places.environ.get("XAUTHORITY") or told.get("XAUTHORITY"):
        return named
    found = (file for pattern in _COOKIES for file in sorted(places.runtime_dir.glob(pattern)))
    return str(next(found, ""))


def _own_sockets(places: Places) -> list[str]:
    """The only one that the user owns; of several, one may be the screen and the others somebody's tests."""
    files = [file for file in places.x_sockets.glob("X*") if re.fullmatch(r"X\d+", file.name)]
    own = [f":{file.name[1:]}" for file in files if _is_owned_by(file, places.user_id)]
    return own if len(own) == 1 else []


def _is_served(name: str, sockets: Path) -> bool:
    """Whether there is a server; not tried, as a server without clients starts anew when its last one leaves."""
    local = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", name)
    return local is not None and (sockets / f"X{local[1]}").is_socket()


def _is_owned_by(file: Path, user_id: int) -> bool:
    try:
        return file.stat().st_uid == user_id
    except OSError:
        return False
