"""Who counts as being at the machine."""

from __future__ import annotations

import pytest

from peerllm.serving.readers.idle import user_idle_s
from peerllm.serving.readers.logind import Logins, LoginSession

ME, OTHER = 1000, 1001
NOW = 10_000.0


def desktop(user: int, *, idle: bool = False, since: float = 0.0, active: bool = True) -> LoginSession:
    return LoginSession(user, "wayland", active, idle, since, "")


def terminal(user: int, last_key: float) -> LoginSession:
    return LoginSession(user, "tty", True, False, last_key, "")


@pytest.mark.parametrize(
    ("seen", "sessions", "expected"),
    [
        ((None, None), None, None),
        ((30.0, None), None, 30.0),
        # X or GNOME know to the second; what logind says of the same desktop is less
        ((30.0, None), [desktop(ME, since=NOW - 900)], 30.0),
        ((30.0, 20.0), [], 20.0),
        ((None, None), [desktop(ME, idle=True, since=NOW - 700)], 700.0),
        ((None, None), [desktop(ME, idle=False, since=NOW - 700)], 0.0),
        # a desktop that never tells logind: unknown, whoever else is idle
        ((None, None), [desktop(ME)], None),
        ((None, None), [desktop(ME), desktop(OTHER, idle=True, since=NOW - 5)], None),
        # keys of a terminal count, beside a desktop, too
        ((None, None), [terminal(ME, NOW - 40)], 40.0),
        ((900.0, None), [desktop(ME), terminal(ME, NOW - 40)], 40.0),
        # others
        ((900.0, None), [desktop(ME, active=False), desktop(OTHER)], 0.0),
        ((900.0, None), [desktop(ME), desktop(OTHER, active=False)], 900.0),
        ((900.0, None), [desktop(ME), desktop(OTHER, idle=True, since=NOW - 300)], 300.0),
        ((900.0, None), [desktop(ME), terminal(OTHER, NOW - 7)], 7.0),
        ((None, None), [desktop(OTHER, idle=True, since=NOW - 300)], 300.0),
    ],
)
def test_idle_time(seen: tuple[float | None, ...], sessions: list[LoginSession] | None, expected: float | None) -> None:
    logins = None if sessions is None else Logins(tuple(sessions), None)
    assert user_idle_s(seen, logins, ME, NOW) == expected


def test_where_nobody_is_logged_in_it_is_known_since_when() -> None:
    assert user_idle_s((None,), Logins((), NOW - 60), ME, NOW) == 60.0


def test_display_of_the_session_in_front_is_taken() -> None:
    old = LoginSession(ME, "x11", False, False, 0.0, ":3")
    front = LoginSession(ME, "x11", True, False, 0.0, ":1")
    others = LoginSession(OTHER, "x11", True, False, 0.0, ":0")
    assert Logins((others, old, front), None).display(ME) == ":1"
    assert Logins((others,), None).display(ME) == ""
