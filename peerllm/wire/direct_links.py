"""What two peers agree on over libp2p before they meet at a direct socket: a secret, and the port of one of them.

The stream proves both peer ids (Noise) and is for members only (the gate). Under the secret the side that asked may
open `CONNECTIONS_PER_LINK` connections within `LINK_S`, so that a session costs no agreement of its own.

Tables here read no clock themselves.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from peerllm.errors import BadFrame
from peerllm.wire.channel_keys import KEY_BYTES, LINK_ID_BYTES, Link, link_context, link_secret
from peerllm_swarm.span import PeerId

DIRECT_PROTOCOL = "peerllm.direct/1"

LINK_S = 3600.0
CONNECTIONS_PER_LINK = 4096
LINKS_PER_PEER = 4
"""Kept at the answering side: a peer that has restarted agrees anew, and one of a flood pushes out only its own."""
MAX_LINKS = 4096

_RENEWED_S = 300.0  # before the answering side forgets a link its opener agrees on another
_ASKED = struct.Struct(f"<B{KEY_BYTES}s")  # version, ephemeral key
_ANSWERED = struct.Struct(f"<B{LINK_ID_BYTES}s{KEY_BYTES}sH")  # version, link id, ephemeral key, port
_VERSION = 1


@dataclass
class Way:
    """How this peer gets at another directly; used up by numbers and time."""

    link: Link
    hosts: Sequence[str]
    port: int
    until: float
    _number: int = field(default=0, init=False)

    def lasts(self, now: float) -> bool:
        return now < self.until and self._number < CONNECTIONS_PER_LINK

    def number(self) -> int:
        """The next one-time number of a connection."""
        self._number += 1
        return self._number - 1


async def ask_for_link(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opener: PeerId, answerer: PeerId
) -> tuple[Link, int]:
    """The link, and the port at which it is good; the stream is proven to lead to `answerer`.

    Raises:
        BadFrame, EOFError, OSError: the other side offers none.
    """
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    writer.write(_ASKED.pack(_VERSION, public))
    version, link_id, theirs, port = _ANSWERED.unpack(await reader.readexactly(_ANSWERED.size))
    if version != _VERSION or not port:
        raise BadFrame(f"{answerer} speaks version {version} of {DIRECT_PROTOCOL}")
    context = link_context(link_id, opener, answerer)
    secret = link_secret(own, theirs, opener=public, answerer=theirs, context=context)
    return Link(link_id, opener, answerer, secret), port


async def grant_link(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opener: PeerId, answerer: PeerId, port: int
) -> Link:
    """Answer one who asks; the link is to be kept before the answer can arrive, hence the caller sends by `drain`.

    Raises:
        BadFrame, EOFError, OSError: the other side asks for no link.
    """
    version, theirs = _ASKED.unpack(await reader.readexactly(_ASKED.size))
    if version != _VERSION:
        raise BadFrame(f"{opener} speaks version {version} of {DIRECT_PROTOCOL}")
    own, link_id = X25519PrivateKey.generate(), os.urandom(LINK_ID_BYTES)
    public = own.public_key().public_bytes_raw()
    context = link_context(link_id, opener, answerer)
    link = Link(link_id, opener, answerer, link_secret(own, theirs, opener=theirs, answerer=public, context=context))
    writer.write(_ANSWERED.pack(_VERSION, link_id, public, port))
    return link


@dataclass
class _Granted:
    link: Link
    until: float
    used: int = 0
    """One bit per number of a connection."""


class GrantedLinks:
    """Links under which others may open connections to this peer; bounded in number, per peer and in time."""

    def __init__(self) -> None:
        self._links: OrderedDict[bytes, _Granted] = OrderedDict()
        self._of_peer: dict[PeerId, deque[bytes]] = {}

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link, now: float) -> None:
        of_peer = self._of_peer.setdefault(link.opener, deque())
        while len(of_peer) >= LINKS_PER_PEER:
            self._forget(of_peer[0])
        while self._links and (len(self._links) >= MAX_LINKS or self._oldest().until <= now):
            self._forget(self._oldest().link.link_id)
        self._of_peer.setdefault(link.opener, deque()).append(link.link_id)
        self._links[link.link_id] = _Granted(link, now + LINK_S)

    def find(self, link_id: bytes, number: int, now: float) -> Link | None:
        """The link, if a connection of this number may still come under it."""
        granted = self._links.get(link_id)
        if granted is None or granted.until <= now or number >= CONNECTIONS_PER_LINK or granted.used >> number & 1:
            return None
        return granted.link

    def use(self, link_id: bytes, number: int) -> None:
        """No other connection may have this number."""
        self._links[link_id].used |= 1 << number

    def _oldest(self) -> _Granted:
        return next(iter(self._links.values()))

    def _forget(self, link_id: bytes) -> None:
        opener = self._links.pop(link_id).link.opener
        self._of_peer[opener].remove(link_id)
        if not self._of_peer[opener]:
            del self._of_peer[opener]


def lasting_until(now: float) -> float:
    """When the opener of a link agreed on now asks for the next one."""
    return now + LINK_S - _RENEWED_S
