"""Receipts as lines of JSON, which anybody can check without a daemon: peer ids contain the keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from peerllm.errors import BadReceipt
from peerllm.giving.receipts import Receipt, Service, SignedReceipt, Tally
from peerllm_swarm.span import PeerId

MAX_LINE = 4096
"""Characters; a receipt takes about 900."""

_SERVICE = [one.name for one in fields(Service)]
_TALLY = [one.name for one in fields(Tally)]
_FIELDS = {*_SERVICE, *_TALLY, "began_ms", "ended_ms", "server_signature", "asker_signature"}


@dataclass(frozen=True)
class BadLine:
    number: int
    reason: str


@dataclass
class Checked:
    """What a file of receipts is worth. Of running totals of one session the last one alone counts."""

    good: int = 0
    one_sided: int = 0
    superseded: int = 0
    bad: list[BadLine] = field(default_factory=list[BadLine])
    token_blocks: dict[tuple[PeerId, PeerId], int] = field(default_factory=dict[tuple[PeerId, PeerId], int])
    """By server and asker, what both have signed for."""


def to_line(signed: SignedReceipt) -> str:
    receipt = signed.receipt
    told: dict[str, Any] = {
        **asdict(receipt.service),
        "session": receipt.service.session.hex(),
        **asdict(receipt.tally),
        "began_ms": receipt.began_ms,
        "ended_ms": receipt.ended_ms,
        "server_signature": _hex(signed.server_signature),
        "asker_signature": _hex(signed.asker_signature),
    }
    return json.dumps(told)


def from_line(line: str) -> SignedReceipt:
    """Raises `BadReceipt` for anything that is no receipt, or is signed by nobody, or not by whom it names."""
    if len(line) > MAX_LINE:
        raise BadReceipt(f"{len(line)} characters, at most {MAX_LINE} allowed")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadReceipt("no JSON") from error
    if not isinstance(told, dict) or set(cast("dict[str, object]", told)) != _FIELDS:
        raise BadReceipt("not the fields of a receipt")
    given = cast("dict[str, Any]", told)
    service = Service(**{**{name: given[name] for name in _SERVICE}, "session": _bytes(given["session"])})
    tally = Tally(**{name: given[name] for name in _TALLY})
    receipt = Receipt(service, tally, given["began_ms"], given["ended_ms"])
    signatures = (given["server_signature"], given["asker_signature"])
    signed = SignedReceipt(receipt, *(None if one is None else _bytes(one) for one in signatures))
    signed.check()
    return signed


def check_lines(lines: Iterable[str]) -> Checked:
    """Look at every line; empty ones are none."""
    checked = Checked()
    last: dict[tuple[object, bool], SignedReceipt] = {}
    for number, signed in _read(lines, checked):
        key = (signed.receipt.key, signed.is_mutual)
        before = last.get(key)
        if before is not None:
            checked.superseded += 1
            if not signed.receipt.tally.covers(before.receipt.tally):
                if not before.receipt.tally.covers(signed.receipt.tally):
                    checked.bad.append(BadLine(number, "contradicts another receipt of the same session"))
                continue
        last[key] = signed
    mutual = [signed.receipt for signed in last.values() if signed.is_mutual]
    checked.good, checked.one_sided = len(mutual), len(last) - len(mutual)
    for receipt in mutual:
        pair = (receipt.service.server, receipt.service.asker)
        checked.token_blocks[pair] = checked.token_blocks.get(pair, 0) + receipt.token_blocks
    return checked


def _read(lines: Iterable[str], checked: Checked) -> Iterator[tuple[int, SignedReceipt]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, from_line(line)
        except BadReceipt as error:
            checked.bad.append(BadLine(number, str(error)))


def _hex(signature: bytes | None) -> str | None:
    return None if signature is None else signature.hex()


def _bytes(digits: object) -> bytes:
    """Of lower-case hex alone, so that there is one way to write them."""
    try:
        if isinstance(digits, str) and bytes.fromhex(digits).hex() == digits:
            return bytes.fromhex(digits)
    except ValueError:
        pass
    raise BadReceipt(f"lower-case hex digits expected, not {digits!r:.40}")
