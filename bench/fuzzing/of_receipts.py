"""Receipts of strangers: packed, as a server sends them, and as lines of a file."""

from __future__ import annotations

import json
from random import Random

from bench.fuzzing.mutations import drawn, edited, wild_json
from bench.fuzzing.target import BrokenPromise, Target
from peerllm.errors import BadReceipt
from peerllm.giving.receipt_lines import check_lines, from_line, to_line
from peerllm.giving.receipts import Receipt
from tests.support.receipts import receipt, signed


def receipts() -> Target:
    """Bodies: one encoding of each."""

    def check(data: bytes) -> bool:
        try:
            read = Receipt.unpack(data)
        except BadReceipt:
            return False
        if read.pack() != data:
            raise BrokenPromise(f"{data!r} read as {read}")
        return True

    return Target(drawn([receipt().pack(), receipt(0).pack()]), check)


def receipt_lines() -> Target:
    """Lines: whoever changes what they say has to sign it."""
    good = {to_line(one) for one in (signed(receipt()), signed(receipt(7), asker=None))}
    said = [from_line(line) for line in good]

    def structured(rng: Random) -> bytes:
        return json.dumps(edited(json.loads(rng.choice(sorted(good))), rng, wild_json)).encode()

    def check(data: bytes) -> bool:
        text = data.decode("utf-8", "replace")
        check_lines(text.splitlines())
        try:
            read = from_line(text)
        except BadReceipt:
            return False
        if all(read.receipt != one.receipt for one in said):
            raise BrokenPromise(f"{text!r} is signed by nobody")
        return True

    return Target(drawn([line.encode() for line in sorted(good)], structured), check)
