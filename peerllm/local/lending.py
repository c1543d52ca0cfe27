"""What this machine lends and why not more: the governor's decision, the owner's limits, what was given and used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peerllm.local.schema import Schema

VERDICTS = ("share", "reduce", "pause", "release")
"""What the governor decides; "" in `GuestStatus.verdict` while nothing is to be lent."""


@dataclass(frozen=True)
class Signal(Schema):
    """One thing read of this machine: `text` for people ("4 min", "unknown"); `held` if it holds lending back."""

    name: str
    text: str
    held: bool = False


@dataclass(frozen=True)
class GuestStatus(Schema):
    """How this machine behaves towards its owner. `reason` is the governor's sentence, `since` a Unix time.

    `consented` is whether the owner has ever said yes; `paused_until` is 0 or when a pause that the owner asked for
    ends; `finishing` that running sessions may end before lending stops; `power` is "eco" or "turbo".
    """

    consented: bool = False
    verdict: str = ""
    reason: str = ""
    since: float = 0.0
    policy: str = ""
    paused_until: float = 0.0
    finishing: bool = False
    power: str = ""
    threads: int = 0
    memory_bytes: int = 0
    signals: tuple[Signal, ...] = ()
    using: tuple[str, ...] = ()
    """Who is served now: names of peers, or ends of their ids."""
    gave_tokens: int = 0
    """Today, tokens times blocks computed for others."""
    used_tokens: int = 0
    """Today, tokens times blocks that others computed for this machine."""


@dataclass(frozen=True)
class Limit(Schema):
    """One setting that the owner may change while the daemon runs; `source` is "choice", "config" or "default"."""

    key: str
    value: Any
    default: Any
    allowed: str
    about: str
    source: str = "default"


@dataclass(frozen=True)
class LedgerRow(Schema):
    """What was given to and used from one peer on one day ("2026-11-21"); energy is an estimate, None if unknown."""

    day: str
    peer_id: str
    name: str = ""
    gave_tokens: int = 0  # tokens times blocks
    used_tokens: int = 0
    gave_bytes: int = 0
    used_bytes: int = 0
    gave_s: float = 0.0
    used_s: float = 0.0
    gave_wh: float | None = None
    receipts: int = 0
    """How many receipts signed by both sides stand behind it."""
