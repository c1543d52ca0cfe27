"""What comes in at the direct port: hellos of strangers, and records of somebody who has got between two members."""

from __future__ import annotations

from functools import partial
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.fuzzing.mutations import drawn, mutated
from bench.fuzzing.private_swarm import peer
from bench.fuzzing.target import BrokenPromise, Target
from peerllm.errors import BadFrame
from peerllm.wire.channel_keys import AnsweringHandshake, Link, OpeningHandshake, read_hello
from peerllm.wire.codec import encode
from peerllm.wire.direct_links import CONNECTIONS_PER_LINK, GrantedLinks
from peerllm.wire.sealed_frames import LENGTH, Records, Sealer
from tests.node.test_wire_codec import EVERY_MESSAGE

_LINK = Link(bytes(range(16)), peer(1), peer(2), bytes(range(32)))
_EPHEMERAL = X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
_PURPOSE = "peerllm.session/1"
_KEY = bytes(range(64, 96))


def handshakes() -> Target:
    """As a hello, as a reply and as a proof: only the very hello of a member passes, and once."""
    hellos = [
        OpeningHandshake(_LINK, number, _PURPOSE, ephemeral=_EPHEMERAL).hello
        for number in (0, 1, CONNECTIONS_PER_LINK - 1)
    ]
    reply = AnsweringHandshake(_LINK, hellos[0], ephemeral=_EPHEMERAL).reply

    def bent(rng: Random) -> bytes:
        return mutated(rng.choice((*hellos, reply, reply[-16:])), rng)

    return Target(drawn(hellos, bent), partial(_check_handshake, frozenset(hellos)))


def records() -> Target:
    """Sealed frames in any pieces: what opens is the beginning of what was sealed."""
    plains = [b"".join(encode(message)) for message in EVERY_MESSAGE]
    plains = [plain for plain in plains if len(plain) < 1000]
    sealer = Sealer(_KEY)
    sealed = [b"".join(sealer.seal(plain)) for plain in plains]

    def bent(rng: Random) -> bytes:
        count = rng.randint(1, len(sealed))
        moved = [record if rng.random() < 0.95 else rng.choice(sealed) for record in sealed[:count]]
        return b"".join(moved) if rng.random() < 0.3 else mutated(b"".join(moved), rng)

    return Target(drawn([b"".join(sealed), sealed[0]], bent), partial(_check_records, plains))


def _check_handshake(hellos: frozenset[bytes], data: bytes) -> bool:
    for read in (OpeningHandshake(_LINK, 0, _PURPOSE).proof, AnsweringHandshake(_LINK, min(hellos)).keys):
        try:
            read(data)
        except BadFrame:
            continue
        raise BrokenPromise("a reply or proof of nobody was believed")
    links = GrantedLinks()
    links.add(_LINK, 0.0)
    try:
        link_id, number = read_hello(data)
        link = links.find(link_id, number, 0.0)
        if link is None:
            return False
        AnsweringHandshake(link, data)
    except BadFrame:
        return False
    if data not in hellos:
        raise BrokenPromise("a hello that nobody has said was believed")
    links.use(link_id, number)
    if links.find(link_id, number, 0.0) is not None:
        raise BrokenPromise("a hello may be said twice")
    return True


def _check_records(plains: list[bytes], data: bytes) -> bool:
    at_once, refused = _opened([data])
    middle = len(data) // 2
    in_pieces, refused_in_pieces = _opened([data[:3], data[3:middle], data[max(3, middle) :]])
    if (at_once, refused) != (in_pieces, refused_in_pieces):
        raise BrokenPromise("the borders of the pieces make a difference")
    if at_once != plains[: len(at_once)]:
        raise BrokenPromise("what opened is not what was sealed, in its order")
    return not refused and len(data) >= LENGTH.size


def _opened(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    records, found = Records(_KEY), list[bytes]()
    try:
        for piece in pieces:
            while piece:
                room = records.room()
                taken = min(len(room), len(piece))
                room[:taken] = piece[:taken]
                piece = piece[taken:]
                found += records.received(taken)
    except BadFrame:
        return found, True
    return found, False
