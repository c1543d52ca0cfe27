"""What systemd-logind (or elogind) knows: who is logged in and idle, the lid, and that the machine is to sleep.

Source: org.freedesktop.login1(5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peerllm.serving.readers.bus import Bus
from peerllm.serving.readers.source import Unreadable

if TYPE_CHECKING:
    from dbus_fast import Message

SERVICE, PATH, MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
SESSION = "org.freedesktop.login1.Session"
SESSIONS_CHANGED = f"type='signal',sender='{SERVICE}',path_namespace='{PATH}/session',member='PropertiesChanged'"

_GRAPHICAL = ("x11", "wayland", "mir")


@dataclass(frozen=True)
class LoginSession:
    """One that somebody is logged in with. `idle_since` is the Unix time when `idle` became what it is, 0 if never."""

    user_id: int
    kind: str  # "x11", "wayland", "tty"
    active: bool
    idle: bool
    idle_since: float
    display: str

    @classmethod
    def of(cls, facts: dict[str, Any]) -> LoginSession | None:
        """From its properties; None for what nobody sits at: greeters, file transfers, sessions that are ending."""
        if facts.get("Class", "user") != "user" or facts.get("State") == "closing":
            return None
        if facts.get("Type") not in (*_GRAPHICAL, "tty"):
            return None
        return cls(
            user_id=facts["User"][0],
            kind=facts["Type"],
            active=bool(facts.get("Active")),
            idle=bool(facts.get("IdleHint")),
            idle_since=facts.get("IdleSinceHint", 0) / 1e6,
            display=facts.get("Display", ""),
        )

    def idle_s(self, now: float) -> float | None:
        """At least so long; None if nobody tells logind.

        Desktops say "idle" and "not idle", some never; of a terminal, logind gives the time of its last key instead.
        """
        if not self.idle_since:
            return None
        if self.kind in _GRAPHICAL and not self.idle:
            return 0.0
        return max(0.0, now - self.idle_since)

    @property
    def is_terminal(self) -> bool:
        return self.kind == "tty"


@dataclass(frozen=True)
class Logins:
    sessions: tuple[LoginSession, ...]
    empty_since: float | None
    """Unix time since when nobody has been logged in, as far as it was seen."""

    def of_user(self, user_id: int) -> tuple[LoginSession, ...]:
        return tuple(session for session in self.sessions if session.user_id == user_id)

    def others_in_front(self, user_id: int) -> tuple[LoginSession, ...]:
        """Of whoever else sits at this machine or types in a terminal; a desktop in the background is nobody's."""
        return tuple(session for session in self.sessions if session.user_id != user_id and session.active)

    def display(self, user_id: int) -> str:
        """Of this user's X session, "" if there is none."""
        mine = sorted(self.of_user(user_id), key=lambda session: not session.active)
        return next((session.display for session in mine if session.display), "")


class LoginReader:
    """Sees each change of a session at once: `changed` is called on the bus's thread."""

    def __init__(self, bus: Bus, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._bus = bus
        self._clock = clock
        self._changed = changed
        self._empty_since: float | None = None
        bus.watch(SESSIONS_CHANGED, self._heard)

    async def logins(self) -> Logins:
        listed = (await self._bus.call(SERVICE, PATH, MANAGER, "ListSessions")).body[0]
        found = [await self._session(path) for _, _, _, _, path in listed]
        sessions = tuple(session for session in found if session is not None)
        if sessions:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = self._clock()
        return Logins(sessions, self._empty_since)

    async def lid_closed(self) -> bool:
        return bool(await self._bus.property(SERVICE, PATH, MANAGER, "LidClosed"))

    async def _session(self, path: str) -> LoginSession | None:
        try:
            return LoginSession.of(await self._bus.properties(SERVICE, path, SESSION))
        except Unreadable:
            return None  # it has ended meanwhile

    def _heard(self, message: Message) -> None:
        if message.member == "PropertiesChanged" and (message.path or "").startswith(f"{PATH}/session"):
            self._changed()
