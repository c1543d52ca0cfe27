"""Two peers with keys of their own, and receipts for what one did for the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerllm.giving.receipts import Receipt, Service, SignedReceipt, Tally, sign_as_asker, sign_as_server
from peerllm_swarm.identity import Identity, peer_id_of

NOW_MS = 1_795_000_000_000
SESSION = bytes(range(16))


@cache
def identity(name: str) -> Identity:
    """The same one for the same name, in every process."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return Identity(peer_id_of(key.public_key()), Path(), key)


def service(session: bytes = SESSION, *, server: str = "server", asker: str = "asker") -> Service:
    return Service(
        identity(server).peer_id,
        identity(asker).peer_id,
        "00112233445566aa",
        session,
        "0123456789abcdef",
        8,
        16,
        1,
    )


def receipt(decode: int = 40, *, at_ms: int = NOW_MS, of: Service | None = None) -> Receipt:
    """A session of ten seconds that ended at that time."""
    return Receipt(of or service(), Tally(100, decode, 50_000, 60_000, 900), at_ms - 10_000, at_ms)


def signed(one: Receipt, *, server: str | None = "server", asker: str | None = "asker") -> SignedReceipt:
    return SignedReceipt(
        one,
        sign_as_server(one, identity(server).sign) if server else None,
        sign_as_asker(one, identity(asker).sign) if asker else None,
    )


@dataclass
class Clock:
    """Unix time that goes on when it is told."""

    now: float = NOW_MS / 1e3

    def __call__(self) -> float:
        return self.now
