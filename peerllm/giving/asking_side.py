"""One hop's work for a session of this peer's: what it was sent, what it answered, and what it wants signed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from peerllm.errors import BadReceipt
from peerllm.giving.accounts import Accounts
from peerllm.giving.claims import check_claim
from peerllm.giving.receipts import (
    MAX_COUNT,
    Receipt,
    Service,
    Sign,
    SignedReceipt,
    Tally,
    sign_as_asker,
)
from peerllm.wire.messages import Contested, Countersigned
from peerllm.wire.messages import Receipt as ReceiptMessage

log = logging.getLogger(__name__)


class Using:
    """Counts what another peer does for one session of this one's; made by `Books`."""

    def __init__(self, service: Service, sign: Sign, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._service = service
        self._sign = sign
        self._accounts = accounts
        self._clock = clock
        self._opened_ms = int(clock() * 1e3)
        self._sent = Tally()
        """The most that the hop can have computed and moved."""
        self._under_way = Tally()
        self._answered = Tally()
        self._signed: Receipt | None = None
        self._noted = Tally()
        self._contested = False
        self._ended = False
        self.settled = asyncio.Event()
        """Set while all that the hop has answered is signed for, or it has been caught at claiming more."""
        self.settled.set()

    def sent(self, rows: int, *, decode: bool, row_bytes: int) -> None:
        """Rows that the hop is to compute; `row_bytes` is what one of them takes at most on its way, frame included."""
        moved = rows * row_bytes
        more = Tally(0 if decode else rows, rows if decode else 0, moved, moved)
        self._sent, self._under_way = self._sent.plus(more), self._under_way.plus(more)

    def answered(self, waited_s: float) -> None:
        """Everything under way has come out of the route, for which this hop kept the asker waiting so long."""
        done, self._under_way = self._under_way, Tally()
        self._answered = self._answered.plus(Tally(done.prefill_tokens, done.decode_tokens))
        self._accounts.waited(self._service.server, waited_s)
        self._look()

    def broken_off(self) -> None:
        """What is under way will not come out; whether the hop has computed it is not known."""
        self._under_way = Tally()

    def take(self, claim: ReceiptMessage) -> Countersigned | Contested | None:
        """What the hop is to be told about its receipt; None if it has been told enough."""
        if self._contested or self._ended:
            return None
        try:
            signed = self._countersigned(claim)
        except BadReceipt as error:
            self._contested = True
            log.warning("receipt refused server=%s fault=%s: %s", self._service.server, error.fault, error)
            self._look()
            return Contested(f"{error.fault}: {error}")
        self._signed = signed.receipt
        self._accounts.keep(signed, self._service.server)
        self._note()
        self._look()
        return Countersigned(signed.asker_signature or b"")

    def close(self) -> None:
        """The hop does nothing any more: keep what it has not had signed, by this peer's own word alone."""
        if self._ended:
            return
        self._ended = True
        self._note()
        signed = self._signed.tally if self._signed is not None else Tally()
        if self._answered.tokens > signed.tokens:
            began_ms = self._signed.began_ms if self._signed is not None else self._opened_ms
            tally = self._answered.at_least(signed)
            receipt = Receipt(self._service, tally, began_ms, max(began_ms, int(self._clock() * 1e3)))
            why = "refused: see the log" if self._contested else "the server has sent no receipt"
            own = SignedReceipt(receipt, None, sign_as_asker(receipt, self._sign))
            self._accounts.keep(own, self._service.server, why)

    def _countersigned(self, claim: ReceiptMessage) -> SignedReceipt:
        """Cheap checks come first: only what could be true has its signature looked at."""
        receipt = Receipt.unpack(claim.body)
        most = self._sent.at_least(Tally(busy_ms=MAX_COUNT))
        now_ms = int(self._clock() * 1e3)
        try:
            check_claim(receipt, self._service, most, self._signed, self._opened_ms, now_ms)
        except BadReceipt as error:
            if error.fault == "over_claim":
                self._keep_evidence(receipt, claim.signature, str(error))
            raise
        SignedReceipt(receipt, claim.signature).check()
        return SignedReceipt(receipt, claim.signature, sign_as_asker(receipt, self._sign))

    def _keep_evidence(self, receipt: Receipt, signature: bytes, why: str) -> None:
        """That the server has claimed too much can be shown, if it has signed it."""
        refused = SignedReceipt(receipt, signature)
        refused.check()
        self._accounts.keep(refused, self._service.server, f"refused: {why}")

    def _look(self) -> None:
        signed = self._signed.tally.tokens if self._signed is not None else 0
        if self._contested or signed >= self._answered.tokens:
            self.settled.set()
        else:
            self.settled.clear()

    def _note(self) -> None:
        """What was signed for was used, and so was what came out, signed for or not."""
        used = self._answered if self._signed is None else self._answered.at_least(self._signed.tally)
        new = used.since(self._noted)
        if new != Tally():
            self._noted = used
            self._accounts.used(self._service.server, new, self._service.blocks)
