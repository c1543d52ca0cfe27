"""Does what a server claims agree with what its asker knows? A decision over values."""

from __future__ import annotations

from peerllm.errors import BadReceipt
from peerllm.giving.receipts import Receipt, Service, Tally

MAX_SKEW_MS = 120_000
"""Between two clocks. Records are void at 10 s; clocks that are set right while a session runs may jump further."""

ROUNDING_MS = 1000


def check_claim(
    claim: Receipt, service: Service, most: Tally, before: Receipt | None, opened_ms: int, now_ms: int
) -> None:
    """Raise `BadReceipt` unless the asker can sign it.

    A server may claim less than `most`: while steps are under way it does not know of all of them, and what it does
    not claim is its own loss.

    Args:
        service: what this asker has the server do.
        most: what the server can have computed, moved and been busy with, if it did all that it was sent.
        before: what was signed last in this session.
        opened_ms, now_ms: Unix time, by this asker's clock.
    """
    if claim.service != service:
        raise BadReceipt("it is for another session, or by another peer", fault="foreign")
    _check_times(claim, opened_ms, now_ms)
    if before is not None:
        if claim.began_ms != before.began_ms:
            raise BadReceipt("the session has begun at another time than before", fault="foreign")
        if not claim.tally.covers(before.tally) or claim.ended_ms < before.ended_ms:
            raise BadReceipt("less than was signed before", fault="stale")
    if not most.covers(claim.tally):
        raise BadReceipt(_too_much(claim.tally, most), fault="over_claim")
    if claim.tally.busy_ms > claim.ended_ms - claim.began_ms + ROUNDING_MS:
        raise BadReceipt("more engine time than the session has lasted", fault="over_claim")


def _check_times(claim: Receipt, opened_ms: int, now_ms: int) -> None:
    if abs(claim.began_ms - opened_ms) > MAX_SKEW_MS or abs(claim.ended_ms - now_ms) > MAX_SKEW_MS:
        raise BadReceipt("its times are not those of the session: the clocks differ too much", fault="clock")
    if claim.ended_ms - claim.began_ms > now_ms - opened_ms + MAX_SKEW_MS:
        raise BadReceipt("it has lasted longer than the session", fault="clock")


def _too_much(claimed: Tally, most: Tally) -> str:
    names = ("prefill tokens", "decode tokens", "bytes in", "bytes out", "ms")
    return ", ".join(
        f"{count} {name} claimed, at most {limit} possible"
        for name, count, limit in zip(names, claimed.counts(), most.counts(), strict=True)
        if count > limit
    )
