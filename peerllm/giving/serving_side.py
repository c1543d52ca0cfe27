"""One served session's count, and the receipts that its asker is asked to sign."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from peerllm.errors import BadFrame, BadReceipt
from peerllm.giving.accounts import Accounts
from peerllm.giving.receipts import Receipt, Service, Sign, SignedReceipt, Tally, sign_as_server
from peerllm.wire.messages import Contested, Countersigned
from peerllm.wire.messages import Receipt as ReceiptMessage

log = logging.getLogger(__name__)

RECEIPT_TOKENS = 512
RECEIPT_S = 60.0
"""Tokens or time after which a running session gets a receipt: what an asker that vanishes leaves unsigned."""

Watts = Callable[[], float | None]
"""What the engine draws while it computes, in watts, by what was measured last; None if that is unknown."""


class Giving:
    """Counts what a session of another peer's costs here; made by `Books`."""

    def __init__(
        self, service: Service, sign: Sign, accounts: Accounts, clock: Callable[[], float], watts: Watts
    ) -> None:
        self._service = service
        self._sign = sign
        self._accounts = accounts
        self._clock = clock
        self._watts = watts
        self._began_ms = int(clock() * 1e3)
        self._tally = Tally()
        self._busy_us = 0
        self._noted = Tally()  # of the tally, what the day's sums have
        self._claimed = Tally()  # and what a receipt was sent for
        self._receipt_at = time.monotonic()
        self._unanswered: deque[SignedReceipt] = deque()
        self._contested = ""
        self.settled = asyncio.Event()
        """Set while every receipt that was sent has been answered."""
        self.settled.set()

    def computed(self, rows: int, *, decode: bool, busy_us: int, bytes_in: int) -> None:
        """One step has gone through the engine; a decode step has one row, and its output is wanted."""
        self._busy_us += busy_us
        prefill, decoded = (0, rows) if decode else (rows, 0)
        self._tally = self._tally.plus(
            Tally(prefill, decoded, bytes_in, busy_ms=self._busy_us // 1000 - self._tally.busy_ms)
        )

    def passes_on(self, count: int) -> None:
        """So many bytes are about to leave for the next hop or the asker."""
        self._tally = self._tally.plus(Tally(bytes_out=count))

    def due(self) -> ReceiptMessage | None:
        """A receipt if it is time for one."""
        new = self._tally.tokens - self._claimed.tokens
        late = time.monotonic() - self._receipt_at >= RECEIPT_S
        return self.receipt() if new >= RECEIPT_TOKENS or (new and late) else None

    def receipt(self, *, last: bool = False) -> ReceiptMessage | None:
        """What the asker is to sign now; None if there is nothing new.

        Two at most are under way: the `last` one does not wait for an answer to the one before.
        """
        if self._tally == self._claimed or self._contested or len(self._unanswered) > last:
            return None
        receipt = Receipt(self._service, self._tally, self._began_ms, max(self._began_ms, int(self._clock() * 1e3)))
        signed = SignedReceipt(receipt, sign_as_server(receipt, self._sign))
        self._unanswered.append(signed)
        self.settled.clear()
        self._claimed, self._receipt_at = self._tally, time.monotonic()
        self._note()
        return ReceiptMessage(receipt.pack(), signed.server_signature or b"")

    def take(self, answer: Countersigned | Contested) -> None:
        """What the asker says to the first receipt that it has not answered; raises `BadFrame` if there is none."""
        if not self._unanswered:
            raise BadFrame(f"{type(answer).__name__} without a receipt")
        sent = self._unanswered.popleft()
        if not self._unanswered:
            self.settled.set()
        if isinstance(answer, Contested):
            self._contest(sent, f"refused by the asker: {answer.reason}")
            return
        mutual = SignedReceipt(sent.receipt, sent.server_signature, answer.signature)
        try:
            mutual.check()
        except BadReceipt as error:
            self._contest(sent, str(error))
        else:
            self._accounts.keep(mutual, self._service.asker)

    def close(self) -> None:
        """No step comes any more: keep what nobody has signed but this peer."""
        if self._tally != self._claimed:
            self._unanswered.clear()
            self.receipt()
        if self._unanswered:
            self._accounts.keep(self._unanswered[-1], self._service.asker, "not signed by the asker")
        self._unanswered.clear()
        self._note()
        self.settled.set()

    def _contest(self, sent: SignedReceipt, why: str) -> None:
        """No more receipts are sent in this session: the asker has its reasons, or plays games."""
        self._contested = why
        log.warning("receipt not signed asker=%s session=%s: %s", self._service.asker, self._session, why)
        self._accounts.keep(sent, self._service.asker, why)

    def _note(self) -> None:
        new = self._tally.since(self._noted)
        if new == Tally():
            return
        self._noted = self._tally
        watts = self._watts()
        joules = None if watts is None else watts * new.busy_ms / 1e3
        self._accounts.gave(self._service.asker, new, self._service.blocks, joules)

    @property
    def _session(self) -> str:
        return self._service.session.hex()[:8]
