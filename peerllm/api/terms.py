"""``X-Peerllm-*`` request headers: by which peers and until when an answer is to be made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from peerllm.errors import UsageError
from peerllm.generation.route_terms import TRUST_LEVELS, RouteTerms

PREFIX = "x-peerllm-"
MAX_PEERS = 32
MAX_DEADLINE_S = 86400.0

TermsOf = Callable[[Mapping[str, str]], RouteTerms]
"""The terms that a request's headers set, where they are silent those of the config."""

_KNOWN = ("deadline-s", "exclude", "pin", "speculation", "token-ids", "trust")
_SPECULATION = {"auto": True, "off": False}


def terms_of(headers: Mapping[str, str], default: RouteTerms) -> RouteTerms:
    """What the headers (names in lower case) demand.

    Raises:
        UsageError: a value that cannot be, or an ``X-Peerllm-`` header that there is not: it would go unheard.
    """
    for name in headers:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _KNOWN:
            known = ", ".join(f"X-Peerllm-{known.title()}" for known in _KNOWN)
            raise UsageError(f"there is no header {name[:64]}; there are {known}")
    return RouteTerms(
        pinned=_peers(headers, "pin"),
        excluded=_peers(headers, "exclude"),
        trust=_trust(headers.get(f"{PREFIX}trust"), default.trust),
        deadline_s=_deadline(headers.get(f"{PREFIX}deadline-s"), default.deadline_s),
        speculation=_speculation(headers.get(f"{PREFIX}speculation"), default.speculation),
    )


def _peers(headers: Mapping[str, str], name: str) -> tuple[str, ...]:
    given = headers.get(PREFIX + name)
    if given is None:
        return ()
    peers = tuple(peer.strip() for peer in given.split(","))
    if not all(peers) or len(peers) > MAX_PEERS:
        raise UsageError(f"X-Peerllm-{name.title()}: up to {MAX_PEERS} ids or names of peers with commas between them")
    return peers


def _trust(given: str | None, default: str) -> str:
    if given is not None and given not in TRUST_LEVELS:
        raise UsageError(f"X-Peerllm-Trust: {', '.join(TRUST_LEVELS)}, not {given[:64]!r}")
    return given or default


def _speculation(given: str | None, default: bool | None) -> bool | None:
    if given is not None and given not in _SPECULATION:
        raise UsageError(f"X-Peerllm-Speculation: {', '.join(_SPECULATION)}, not {given[:64]!r}")
    return default if given is None else _SPECULATION[given]


def _deadline(given: str | None, default: float | None) -> float | None:
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise UsageError(f"X-Peerllm-Deadline-S: seconds above 0 and up to {MAX_DEADLINE_S:g}, not {given[:64]!r}")
    return seconds
