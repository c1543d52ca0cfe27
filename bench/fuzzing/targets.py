"""Every target by name, and its part of all cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.fuzzing import of_direct, of_members, of_models, of_owner, of_receipts, of_records, of_requests, of_wire
from bench.fuzzing.target import Target

HTTP = "http requests"
"""The one target that is a server: `http_requests.ask` runs its cases."""


@dataclass(frozen=True)
class Entry:
    part: int
    make: Callable[[], Target]


TARGETS: Mapping[str, Entry] = {
    "wire frames": Entry(20, of_wire.frames),
    "wire messages": Entry(15, of_wire.messages),
    "direct handshakes": Entry(4, of_direct.handshakes),
    "direct records": Entry(6, of_direct.records),
    "records": Entry(9, of_records.records),
    "private records": Entry(6, of_records.private_records),
    "mdns adverts": Entry(5, of_records.adverts),
    "certificates": Entry(6, of_members.certificates),
    "invitation tokens": Entry(6, of_members.tokens),
    "join messages": Entry(6, of_members.join_messages),
    "dial-back messages": Entry(4, of_wire.dial_back_messages),
    "addresses": Entry(5, of_wire.addresses),
    "receipts": Entry(4, of_receipts.receipts),
    "receipt lines": Entry(4, of_receipts.receipt_lines),
    "gguf headers": Entry(10, of_models.gguf_headers),
    "gguf vocabularies": Entry(2, of_models.vocabularies),
    "safetensors headers": Entry(5, of_models.safetensors_headers),
    "checkpoint configs": Entry(2, of_models.checkpoint_configs),
    "checkpoint indexes": Entry(2, of_models.checkpoint_indexes),
    "chat templates": Entry(2, of_models.chat_templates),
    "config files": Entry(1, of_owner.config_files),
    "config values": Entry(3, of_owner.config_values),
    "event streams": Entry(3, of_owner.event_streams),
    "control answers": Entry(3, of_owner.control_answers),
    "request bodies": Entry(2, of_requests.request_bodies),
}
HTTP_PART = 4


def cases_of(total: int) -> dict[str, int]:
    """How many cases each target gets of `total`, together at least so many."""
    parts = {name: entry.part for name, entry in TARGETS.items()} | {HTTP: HTTP_PART}
    whole = sum(parts.values())
    return {name: -(-total * part // whole) for name, part in parts.items()}
