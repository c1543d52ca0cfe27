"""How long nobody has touched this machine, from what several sources say. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from peerllm.serving.readers.logind import Logins, LoginSession


def user_idle_s(desktop: Iterable[float | None], logins: Logins | None, user_id: int, now: float) -> float | None:
    """The least of what is known of this user and of whoever else is in front; None if that of this user is not.

    Args:
        desktop: what X, GNOME and the like say of this user's desktop, to the second; None where they do not.
        logins: what logind says, which desktops tell less exactly, and some never.
    """
    seen = _known(desktop)
    if logins is None:
        return min(seen, default=None)
    own = logins.of_user(user_id)
    # of a desktop that is seen itself, logind only knows less
    seen += _known(session.idle_s(now) for session in own if session.is_terminal or not seen)
    if own and not seen:
        return None
    seen += _known(_others_idle_s(session, now) for session in logins.others_in_front(user_id))
    if not seen and logins.empty_since is not None:
        return max(0.0, now - logins.empty_since)
    return min(seen, default=None)


def _others_idle_s(session: LoginSession, now: float) -> float | None:
    """Another's desktop in front that says nothing of being idle is in use: it cannot be asked otherwise."""
    idle_s = session.idle_s(now)
    return 0.0 if idle_s is None and not session.is_terminal else idle_s


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
