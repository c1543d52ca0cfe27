"""One member's connection: frames sealed with AEAD under a counter, over a socket that others have connected.

Frames of sums go out of machine code where there is numba, see `exchange_compiled`; commands, and sums without numba,
go through here. Both count in the same nonces, so that no key ever meets one of them twice.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from nacl import bindings
from nacl.exceptions import CryptoError

from peerllm.engine.exchange_layout import HEADER_BYTES
from peerllm.errors import GroupBroken

KEY_BYTES = 32
NONCE_BYTES = 32
"""Room for any cipher's: the counter stands in the first 8, little-endian, zeros behind it."""

_HEADER = struct.Struct("<I")
_CONTEXT = struct.Struct("<qqq")


class Channel(Protocol):
    """What is needed of `peerllm.wire.raw_channel.RawChannel`."""

    @property
    def socket(self) -> socket.socket: ...
    @property
    def send_key(self) -> bytes: ...
    @property
    def receive_key(self) -> bytes: ...


class Cipher(StrEnum):
    """libsodium's AEADs with keys of 32 bytes; the members of a group use the same.

    AEGIS-256 seals 8 KiB in 1.4 us on a CPU with AES instructions (ChaCha20-Poly1305: 6.9 us) and is slow on others.
    """

    AEGIS256 = "aegis256"
    CHACHA20 = "chacha20poly1305_ietf"

    @property
    def tag_bytes(self) -> int:
        return 32 if self is Cipher.AEGIS256 else 16

    @property
    def nonce_bytes(self) -> int:
        return 32 if self is Cipher.AEGIS256 else 12

    @cached_property
    def encrypt(self) -> Callable[[bytes, bytes, bytes, bytes], bytes]:
        return getattr(bindings, f"crypto_aead_{self}_encrypt")

    @cached_property
    def decrypt(self) -> Callable[[bytes, bytes, bytes, bytes], bytes]:
        return getattr(bindings, f"crypto_aead_{self}_decrypt")

    def addresses(self) -> tuple[int, int]:
        """Of the functions that seal and open, for machine code."""
        sodium: Any = importlib.import_module("nacl._sodium")
        functions = [sodium.ffi.addressof(sodium.lib, f"crypto_aead_{self}_{does}crypt") for does in ("en", "de")]
        sealing, opening = (int(sodium.ffi.cast("uintptr_t", function)) for function in functions)
        return sealing, opening


@dataclass(frozen=True)
class Context:
    """What a frame is about: authenticated with it and not sent, so that frames out of step do not open."""

    kind: int
    number: int
    size: int

    @property
    def encoded(self) -> bytes:
        return _CONTEXT.pack(self.kind, self.number, self.size)


class SealedLink:
    """Belongs to one thread; `socket.shutdown` from another one ends every wait at once."""

    def __init__(self, channel: Channel, member: int, cipher: Cipher) -> None:
        if len(channel.send_key) != KEY_BYTES or len(channel.receive_key) != KEY_BYTES:
            raise GroupBroken(f"the channel to member {member} has keys of a wrong length")
        self.socket = channel.socket
        self.member = member
        self.send_nonce = np.zeros(NONCE_BYTES // 8, "<i8")
        self.receive_nonce = np.zeros(NONCE_BYTES // 8, "<i8")
        self.send_key = np.frombuffer(channel.send_key, np.uint8)
        self.receive_key = np.frombuffer(channel.receive_key, np.uint8)
        self._cipher = cipher
        _keep_alive(self.socket)

    def sealed(self, plain: bytes, context: Context) -> bytes:
        """The next frame for this member."""
        nonce = self.send_nonce.tobytes()[: self._cipher.nonce_bytes]
        self.send_nonce[0] += 1
        sealed = self._cipher.encrypt(plain, context.encoded, nonce, self.send_key.tobytes())
        return _HEADER.pack(len(sealed)) + sealed

    def opened(self, frame: bytes, context: Context) -> bytes:
        """What the member sealed; raises `GroupBroken`."""
        nonce = self.receive_nonce.tobytes()[: self._cipher.nonce_bytes]
        self.receive_nonce[0] += 1
        try:
            return self._cipher.decrypt(frame[HEADER_BYTES:], context.encoded, nonce, self.receive_key.tobytes())
        except CryptoError:
            raise GroupBroken(f"member {self.member} sent what does not open: not its key, or out of step") from None

    def frame_bytes(self, plain_bytes: int) -> int:
        """Of a frame that carries so much."""
        return HEADER_BYTES + plain_bytes + self._cipher.tag_bytes

    def frame_length(self, frame: bytes) -> int:
        """Of the whole frame, as its header says."""
        return HEADER_BYTES + _HEADER.unpack_from(frame)[0]

    def send(self, plain: bytes, context: Context, *, timeout_s: float) -> None:
        """Raises `GroupBroken` if the member does not take it in time."""
        with _named(self, "does not take what it is sent", timeout_s):
            self.socket.sendall(self.sealed(plain, context))

    def receive(self, kind: int, number: int, *, most_bytes: int, timeout_s: float | None) -> bytes:
        """The member's next frame, of that kind and number; None waits for ever. Raises `GroupBroken`."""
        with _named(self, "is silent", timeout_s):
            header = self._exactly(HEADER_BYTES)
            length = _HEADER.unpack(header)[0]
            size = length - self._cipher.tag_bytes
            if not 0 <= size <= most_bytes:
                raise GroupBroken(f"member {self.member} announces a frame of {length} bytes")
            self.socket.settimeout(timeout_s if timeout_s is not None else _REST_S)
            return self.opened(header + self._exactly(length), Context(kind, number, size))

    def check_idle(self) -> None:
        """Raise `GroupBroken` unless the channel is open and silent."""
        with _named(self, "", 0.0), contextlib.suppress(BlockingIOError):
            if self.socket.recv(1, socket.MSG_PEEK):
                raise GroupBroken(f"member {self.member} speaks out of turn")
            raise GroupBroken(f"member {self.member} is gone")

    def shut(self) -> None:
        """End every wait on the socket, in whatever thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut()
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            moved = self.socket.recv_into(view)
            if not moved:
                raise GroupBroken(f"member {self.member} closed the channel")
            view = view[moved:]
        return bytes(buffer)


_REST_S = 5.0
"""For the rest of a frame that has begun, where its beginning may take any time."""


class _named:
    """Turns what a socket raises into `GroupBroken`, with the timeout set meanwhile."""

    def __init__(self, link: SealedLink, silence: str, timeout_s: float | None) -> None:
        self._link, self._silence = link, silence
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        try:
            self._link.socket.settimeout(self._timeout_s)
        except OSError as error:
            raise GroupBroken(f"the channel to member {self._link.member} is closed") from error

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise GroupBroken(f"member {self._link.member} {self._silence} for {self._timeout_s} s") from error
        if isinstance(error, OSError):
            raise GroupBroken(f"the channel to member {self._link.member} broke: {error}") from error


KEEP_ALIVE_S = 1
KEEP_ALIVE_PROBES = 3


def _keep_alive(connection: socket.socket) -> None:
    """Let the kernel notice in about 4 s that the other machine of an idle group is gone."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_ALIVE_S),
        ("TCP_KEEPALIVE", KEEP_ALIVE_S),  # macOS's word for it
        ("TCP_KEEPINTVL", KEEP_ALIVE_S),
        ("TCP_KEEPCNT", KEEP_ALIVE_PROBES),
        ("TCP_USER_TIMEOUT", 1000 * KEEP_ALIVE_S * (KEEP_ALIVE_PROBES + 1)),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
