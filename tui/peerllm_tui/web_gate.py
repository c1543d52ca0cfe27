"""Who may come to the screens in a browser, decided before anything is served.

As shipped, textual-serve answers to any `Host` and takes WebSockets from the page of any `Origin`: every page that the
owner visits could type into the screens. Here `Host` and `Origin` must be exactly this server, a code in the address
lets one browser in, once and soon, and a cookie keeps it in. Cookies are sent to every port of a machine, so this one
belongs to a path that no other server knows.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

CODE_LIFETIME_S = 300.0

_COOKIE = "peerllm-terminal"


@dataclass(frozen=True)
class Asked:
    """The head of a request, as far as it decides; every value that was sent of a header."""

    path: str
    hosts: Sequence[str]
    origins: Sequence[str]
    cookie: str = ""
    is_websocket: bool = False


@dataclass(frozen=True)
class Refusal:
    status: int
    reason: str


@dataclass(frozen=True)
class Gate:
    """Of one server on one port; `folder` and `cookie` are secrets of its own."""

    port: int
    folder: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(24)}", repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    code: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """What lets a browser in."""
        return f"{self.url}/?token={self.code}"

    @property
    def set_cookie(self) -> str:
        """No `Secure`: loopback has no TLS. `Strict`: no other site's link or frame brings it along."""
        return f"{_COOKIE}={self.cookie}; Path={self.folder}/; HttpOnly; SameSite=Strict"

    def refusal(self, asked: Asked) -> Refusal | None:
        """Why this must not pass, or None."""
        if list(asked.hosts) != [f"127.0.0.1:{self.port}"]:
            return Refusal(403, f"this server is {self.url} and answers to no other name")
        if list(asked.origins) != [self.url] and (asked.origins or asked.is_websocket):
            return Refusal(403, "other pages may not come here")
        if asked.path == "/":
            return None
        if not (asked.path.startswith(f"{self.folder}/") and _same(asked.cookie, self.cookie)):
            return Refusal(401, "this browser was not let in; `peerllm web --terminal` opens one that is")
        return None

    def admits(self, code: str, *, age_s: float, used: bool) -> Refusal | None:
        """Why the code in the address lets nobody in, or None."""
        if not _same(code, self.code):
            return Refusal(401, "the address has no code that opens this; `peerllm web --terminal` makes one")
        if used or age_s > CODE_LIFETIME_S:
            return Refusal(401, "this address was used before, or is older than 5 minutes; start it anew")
        return None


def cookie_in(cookies: dict[str, str]) -> str:
    """The one of this server; "" if the browser has none."""
    return cookies.get(_COOKIE, "")


def _same(given: str, right: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), right.encode())
