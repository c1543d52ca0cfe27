"""Sockets that listen at a port beside other daemons of this machine; in both families of IP."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

PORTS_TRIED = 32

_BACKLOG = 128
_UNSPECIFIED = {"0.0.0.0": "::"}


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Bound to `port` or the next free one (0: any); ``0.0.0.0`` means IPv6 as well where there is any.

    Raises:
        OSError: none of the ports is free.
    """
    reason: OSError | None = None
    for candidate in _candidates(port):
        try:
            return _listening_at(host, candidate)
        except OSError as error:
            reason = error
    raise reason or OSError(f"there is no port {port}")


def _candidates(port: int) -> Iterator[int]:
    return iter(range(port, min(port + PORTS_TRIED, 65536)) if port else (0,))


def _listening_at(host: str, port: int) -> list[socket.socket]:
    """In both families where `host` means all of them, on one port."""
    first = _bound(host, port)
    other = _UNSPECIFIED.get(host)
    if other is None or not socket.has_ipv6:
        return [first]
    try:
        return [first, _bound(other, first.getsockname()[1])]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            first.close()
            raise
        return [first]  # IPv6 is switched off


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it lets two listen at one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
