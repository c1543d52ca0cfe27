"""The keys of one direct connection: a handshake of three short messages over a secret that both sides share.

It is the pattern NNpsk0 of the Noise protocol framework, revision 34 (https://noiseprotocol.org/noise.html), with
X25519, AES-256-GCM and SHA-256, and a third message by which the side that opened proves that it is no replay. Why
this one, and what it withstands: docs/adr/0021-the-direct-socket.md.

Nothing here does input or output.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peerllm.errors import BadFrame
from peerllm_swarm.span import PeerId

KEY_BYTES = 32
TAG_BYTES = 16
LINK_ID_BYTES = 16

_NOISE = b"Noise_NNpsk0_25519_AESGCM_SHA256"  # 32 bytes, so it is the first hash itself (section 5.2)
_LABEL = b"peerllm direct 1"
_HELLO = struct.Struct("<4s16sI")  # magic, link id, number of the connection
_MAGIC = b"PLD\x01"

HELLO_BYTES = _HELLO.size + KEY_BYTES + KEY_BYTES + TAG_BYTES  # ephemeral key, hash of the purpose and its tag
REPLY_BYTES = KEY_BYTES + TAG_BYTES
PROOF_BYTES = TAG_BYTES


@dataclass(frozen=True)
class Link:
    """What two peers have agreed on over libp2p: `opener` may open connections to `answerer` under this secret."""

    link_id: bytes
    opener: PeerId
    answerer: PeerId
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class ChannelKeys:
    """Of one connection, fresh: no other connection has them, and each direction has its own."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


def link_secret(own: X25519PrivateKey, theirs: bytes, *, opener: bytes, answerer: bytes, context: bytes) -> bytes:
    """The secret of a link from the ephemeral keys of both sides, `opener` and `answerer` being their public halves.

    Raises:
        BadFrame: the other side's key is none.
    """
    return _hkdf(_LABEL + context + opener + answerer, _exchanged(own, theirs), 1)[0]


def link_context(link_id: bytes, opener: PeerId, answerer: PeerId) -> bytes:
    """Who agrees on what, in one unambiguous string: each part has its length before it."""
    parts = (link_id, opener.encode(), answerer.encode())
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


def read_hello(hello: bytes) -> tuple[bytes, int]:
    """Link id and number of a connection, as yet unproven.

    Raises:
        BadFrame: no hello of this version.
    """
    if len(hello) != HELLO_BYTES:
        raise BadFrame(f"a hello has {HELLO_BYTES} bytes, not {len(hello)}")
    magic, link_id, number = _HELLO.unpack_from(hello)
    if magic != _MAGIC:
        raise BadFrame("this is no hello of a direct connection")
    return link_id, number


class OpeningHandshake:
    """Of the side that connects: `hello`, then `proof` of what came back, and the keys are there."""

    def __init__(self, link: Link, number: int, purpose: str, *, ephemeral: X25519PrivateKey | None = None) -> None:
        """`number` is used once in the life of the link; so is `ephemeral`, and None makes one."""
        head = _HELLO.pack(_MAGIC, link.link_id, number)
        self._noise = _Noise(_prologue(link, head), link.secret)
        self._ephemeral = ephemeral or X25519PrivateKey.generate()
        public = self._ephemeral.public_key().public_bytes_raw()
        self._noise.mix_ephemeral(public)
        self.hello = head + public + self._noise.seal(_named(purpose))

    def proof(self, reply: bytes) -> bytes:
        """What to send back, after which the connection is proven to the other side as well.

        Raises:
            BadFrame: the reply is not of whoever has the secret, or not to this hello.
        """
        if len(reply) != REPLY_BYTES:
            raise BadFrame(f"a reply has {REPLY_BYTES} bytes, not {len(reply)}")
        public = reply[:KEY_BYTES]
        self._noise.mix_ephemeral(public)
        self._noise.mix_key(_exchanged(self._ephemeral, public))
        self._noise.open(reply[KEY_BYTES:])
        self._there, self._back, proving = self._noise.split()
        return AESGCM(proving).encrypt(_nonce(0), b"", self._noise.hash)

    @property
    def keys(self) -> ChannelKeys:
        """Once `proof` has returned."""
        return ChannelKeys(send=self._there, receive=self._back)


class AnsweringHandshake:
    """Of the side that is connected to: has checked a hello once it is built, and wants a proof before it has keys."""

    def __init__(self, link: Link, hello: bytes, *, ephemeral: X25519PrivateKey | None = None) -> None:
        """Raises BadFrame: the hello is not of whoever has the secret, which is found out before any costly step."""
        self._noise = _Noise(_prologue(link, hello[: _HELLO.size]), link.secret)
        public = hello[_HELLO.size : _HELLO.size + KEY_BYTES]
        self._noise.mix_ephemeral(public)
        self._purpose = self._noise.open(hello[_HELLO.size + KEY_BYTES :])
        ephemeral = ephemeral or X25519PrivateKey.generate()
        own = ephemeral.public_key().public_bytes_raw()
        self._noise.mix_ephemeral(own)
        self._noise.mix_key(_exchanged(ephemeral, public))
        self.reply = own + self._noise.seal(b"")
        self._there, self._back, self._proving = self._noise.split()

    def is_for(self, purpose: str) -> bool:
        return self._purpose == _named(purpose)

    def keys(self, proof: bytes) -> ChannelKeys:
        """Raises BadFrame: whoever said hello has not read the reply, so it may have been a recording."""
        _opened(AESGCM(self._proving), 0, proof, self._noise.hash)
        return ChannelKeys(send=self._back, receive=self._there)


class _Noise:
    """The symmetric state of section 5.2, begun as NNpsk0 begins: with prologue and secret."""

    def __init__(self, prologue: bytes, secret: bytes) -> None:
        self.hash = self._chaining = _NOISE
        self._count = 0
        self._mix_hash(prologue)
        self._chaining, mixed, key = _hkdf(self._chaining, secret, 3)
        self._mix_hash(mixed)
        self._aead = AESGCM(key)

    def mix_ephemeral(self, public: bytes) -> None:
        """Where there is a shared secret, ephemeral keys go into the key as well (section 9.2)."""
        self._mix_hash(public)
        self.mix_key(public)

    def mix_key(self, material: bytes) -> None:
        self._chaining, key = _hkdf(self._chaining, material, 2)
        self._aead, self._count = AESGCM(key), 0

    def seal(self, plain: bytes) -> bytes:
        sealed = self._aead.encrypt(_nonce(self._count), plain, self.hash)
        self._count += 1
        self._mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plain = _opened(self._aead, self._count, sealed, self.hash)
        self._count += 1
        self._mix_hash(sealed)
        return plain

    def split(self) -> list[bytes]:
        """The keys there and back, and one for the proof: the first two outputs are those of section 5.2."""
        return _hkdf(self._chaining, b"", 3)

    def _mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()


def _prologue(link: Link, head: bytes) -> bytes:
    """Who connects to whom under what: both sides must mean the same, or no message opens."""
    return _LABEL + link_context(link.link_id, link.opener, link.answerer) + head


def _opened(aead: AESGCM, count: int, sealed: bytes, transcript: bytes) -> bytes:
    try:
        return aead.decrypt(_nonce(count), sealed, transcript)
    except InvalidTag:
        raise BadFrame("the other end of a direct connection does not have its key") from None


def _exchanged(own: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:  # a point of low order: the result would be zero
        raise BadFrame("the other end of a direct connection sent a public key that is none") from None


def _hkdf(chaining: bytes, material: bytes, outputs: int) -> list[bytes]:
    """HKDF-SHA256 (RFC 5869) with the chaining key as salt and no info."""
    key = hmac.digest(chaining, material, "sha256")
    blocks = [b""]
    for number in range(1, outputs + 1):
        blocks.append(hmac.digest(key, blocks[-1] + bytes((number,)), "sha256"))
    return blocks[1:]


def _nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")


def _named(purpose: str) -> bytes:
    return hashlib.sha256(purpose.encode()).digest()
