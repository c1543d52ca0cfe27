"""Who this peer is: an Ed25519 key in libp2p's file format, and ids that contain their public key.

The key belongs to one directory on one machine. `identity.place` beside it remembers which: when a home has been
copied, the copy finds another place written there and makes itself a new key, so that no two peers share an id.
A home that is moved by rename keeps its inode, hence its identity; one that is moved between file systems, restored
from a backup or taken to another machine gets a new one, unless `identity.place` is deleted first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from peerllm_swarm.errors import BadIdentity
from peerllm_swarm.span import PeerId

logger = logging.getLogger(__name__)

SIGNATURE_BYTES = 64
PEER_ID_CHARS = 52  # of an Ed25519 peer id; other key types are not admitted

_KEY_NAME = "identity.key"
_PLACE_NAME = "identity.place"
_REPLACED_NAME = "identity.key.replaced"

# libp2p's protobuf messages with key_type = Ed25519 and the length of `data`; the private one holds seed + public key.
# https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md#keys
_PRIVATE_HEADER = b"\x08\x01\x12\x40"
_PUBLIC_HEADER = b"\x08\x01\x12\x20"
_KEY_BYTES = 32
_KEY_FILE_BYTES = len(_PRIVATE_HEADER) + 2 * _KEY_BYTES
_IDENTITY_MULTIHASH = bytes([0x00, len(_PUBLIC_HEADER) + _KEY_BYTES])

_PLACE = re.compile(r"[0-9a-f]{64}")

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True)
class Identity:
    """A peer's private key and the id that follows from it."""

    peer_id: PeerId
    key_file: Path
    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load_or_create(cls, home: Path) -> Identity:
        """Read the identity of `home`, or make one; the caller holds the lock of this home.

        Raises:
            BadIdentity: the key file is unreadable or holds something else.
        """
        key_file = home / _KEY_NAME
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            home.chmod(0o700)
            place = _place_of(home)
            if key_file.exists() and _was_copied(home, place):
                _set_aside(home)
            if not key_file.exists():
                _write_private(home / _PLACE_NAME, place.encode())
                _write_private(key_file, _encode_key(Ed25519PrivateKey.generate()))
            elif _noted_place(home) is None:
                _write_private(home / _PLACE_NAME, place.encode())
            return cls._load(key_file)
        except OSError as error:
            raise BadIdentity(
                f"cannot use the identity in {home}: {error.strerror or error}; "
                "the directory must belong to this user and be writable"
            ) from error

    @classmethod
    def _load(cls, key_file: Path) -> Identity:
        key_file.chmod(0o600)
        with key_file.open("rb") as file:
            content = file.read(_KEY_FILE_BYTES + 1)
        key = _decode_key(content, key_file)
        return cls(peer_id_of(key.public_key()), key_file, key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        return self._key.sign(message)


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `peer_id` signed `message`; False also for anything that is no id or no signature."""
    key = public_key_bytes(peer_id)
    if key is None or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_peer_id(text: str) -> bool:
    """Whether `text` is an Ed25519 peer id, written in the only way it can be."""
    return public_key_bytes(text) is not None


def public_key_bytes(peer_id: str) -> bytes | None:
    """The 32 bytes of the public key in an Ed25519 peer id; None for anything else."""
    if len(peer_id) != PEER_ID_CHARS:
        return None
    try:
        decoded = base58_decode(peer_id)
    except ValueError:
        return None
    header = _IDENTITY_MULTIHASH + _PUBLIC_HEADER
    if len(decoded) != len(header) + _KEY_BYTES or not decoded.startswith(header):
        return None
    return decoded[len(header) :]


def peer_id_of(key: Ed25519PublicKey) -> PeerId:
    """The libp2p peer id of a public key: base58 of its identity multihash."""
    return peer_id_of_bytes(key.public_bytes_raw())


def peer_id_of_bytes(key: bytes) -> PeerId:
    """The same from the key's 32 bytes; the inverse of `public_key_bytes`."""
    return PeerId(base58_encode(_IDENTITY_MULTIHASH + _PUBLIC_HEADER + key))


def base58_encode(data: bytes) -> str:
    """Base58 in Bitcoin's alphabet; every leading zero byte becomes a ``1``."""
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * zeros + "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """The inverse of `base58_encode`; raises ValueError at any other character.

    Takes time in the square of the length: callers bound it.
    """
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _encode_key(key: Ed25519PrivateKey) -> bytes:
    return _PRIVATE_HEADER + key.private_bytes_raw() + key.public_key().public_bytes_raw()


def _decode_key(content: bytes, key_file: Path) -> Ed25519PrivateKey:
    seed = content[len(_PRIVATE_HEADER) : -_KEY_BYTES]
    if len(seed) == _KEY_BYTES and content.startswith(_PRIVATE_HEADER):
        key = Ed25519PrivateKey.from_private_bytes(seed)
        if _encode_key(key) == content:
            return key
    raise BadIdentity(
        f"{key_file} is damaged or no Ed25519 key in libp2p's format; "
        "restore it from a backup, or delete it to join as a new peer"
    )


def _place_of(home: Path) -> str:
    """A hash that a copy of `home` does not share: the directory's inode and the machine it is on."""
    inode = home.stat().st_ino
    return hashlib.sha256(f"{_machine_id()}\n{inode}".encode()).hexdigest()


def _machine_id() -> str:
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as registry:
            return str(winreg.QueryValueEx(registry, "MachineGuid")[0])
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.is_file():
            return path.read_text(encoding="ascii", errors="replace").strip()
    return ""  # macOS and bare containers: the inode alone tells copies apart


def _was_copied(home: Path, place: str) -> bool:
    return _noted_place(home) not in (None, place)


def _noted_place(home: Path) -> str | None:
    """None where there is none: deleted by an owner who moved the home and wants to stay the same peer, or damaged."""
    try:
        noted = (home / _PLACE_NAME).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return noted if _PLACE.fullmatch(noted) else None


def _set_aside(home: Path) -> None:
    (home / _KEY_NAME).replace(home / _REPLACED_NAME)
    logger.warning(
        "identity renewed home=%s: it is a copy, and two peers must not share an id; the copied key is kept as %s",
        home,
        _REPLACED_NAME,
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all, readable by its owner only."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    if sys.platform != "win32":  # has no such call, and does it by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
