"""As much of Wayland as it takes to ask a compositor something without showing a window.

Source: "Wire Format" and wl_display, wl_registry of the Wayland protocol.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIMIT_S = 2.0
_MAX_BYTES = 1 << 20

_DISPLAY, _REGISTRY = 1, 2
_SYNC, _GET_REGISTRY, _BIND, _GLOBAL = 0, 1, 0, 0


@dataclass(frozen=True)
class Offer:
    """Something that the compositor lets clients use."""

    name: int
    interface: str


class Wire:
    """Messages to and from a compositor: an object, the number of its request or event, arguments."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`, as all its methods, if there is no compositor, or it leaves."""
        self._objects = _REGISTRY
        self._unread = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_LIMIT_S)
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def offers(self) -> list[Offer]:
        """Everything that the compositor has; asked once, first of all."""
        done = self.new_object()
        self.send(_DISPLAY, _GET_REGISTRY, struct.pack("=I", _REGISTRY))
        self.send(_DISPLAY, _SYNC, struct.pack("=I", done))
        found: list[Offer] = []
        while True:
            for sender, event, arguments in self.received(wait=True):
                if (sender, event) == (_REGISTRY, _GLOBAL):
                    name, length = struct.unpack_from("=II", arguments)
                    found.append(Offer(name, arguments[8 : 8 + length - 1].decode(errors="replace")))
                elif sender == done:
                    return found

    def bind(self, offer: Offer) -> int:
        """An object for what is offered, in its first version."""
        made, text = self.new_object(), offer.interface.encode() + b"\0"
        padded = text.ljust(-(-len(text) // 4) * 4, b"\0")
        self.send(_REGISTRY, _BIND, struct.pack("=II", offer.name, len(text)) + padded + struct.pack("=II", 1, made))
        return made

    def new_object(self) -> int:
        self._objects += 1
        return self._objects

    def send(self, receiver: int, request: int, arguments: bytes) -> None:
        self._socket.sendall(struct.pack("=II", receiver, (8 + len(arguments)) << 16 | request) + arguments)

    def received(self, *, wait: bool = False) -> list[tuple[int, int, bytes]]:
        """What has come since the last call; with `wait`, at least a part of a message."""
        if wait:
            self._unread += self._some()
        self._socket.setblocking(False)
        try:
            while len(self._unread) <= _MAX_BYTES:
                self._unread += self._some()
        except BlockingIOError:
            return list(self._whole())
        finally:
            self._socket.settimeout(_LIMIT_S)
        raise ConnectionError("it does not stop talking")

    def close(self) -> None:
        self._socket.close()

    def _some(self) -> bytes:
        if chunk := self._socket.recv(65536):
            return chunk
        raise ConnectionResetError("it has left")

    def _whole(self) -> Iterator[tuple[int, int, bytes]]:
        while len(self._unread) >= 8:
            sender, head = struct.unpack_from("=II", self._unread)
            if (size := head >> 16) < 8:
                raise ConnectionError("it does not speak Wayland")
            if len(self._unread) < size:
                return
            message, self._unread = self._unread[:size], self._unread[size:]
            yield sender, head & 0xFFFF, message[8:]
