"""What this machine gave and used, written to its ledger by a thread: the event loop never waits for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from peerllm.errors import BadLedger
from peerllm.giving.days import DaySum, day_of
from peerllm.giving.receipts import SignedReceipt, Tally
from peerllm.giving.store import KeptReceipt, Store
from peerllm.local.lending import LedgerRow
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

BATCH_S = 1.0
"""Between two writes: what a power cut takes."""

PRUNE_S = 3600.0

MAX_PENDING = 4096
"""Receipts that wait for a disk that cannot be written; more are dropped."""

STOP_S = 5.0


class Accounts:
    """The ledger of one home. All methods return at once but `rows` and `close`."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._changed = threading.Condition()
        self._sums: dict[tuple[str, PeerId], DaySum] = {}
        self._receipts: dict[object, KeptReceipt] = {}
        self._today = (day_of(clock()), DaySum())
        self._closing = False
        self._opened = threading.Event()
        self._writing = threading.Lock()  # the store is used by whoever holds it
        self._store: Store | None = None
        self._pruned_at = 0.0
        self._thread: threading.Thread | None = None  # begun with the first word said of the ledger

    def gave(self, peer: PeerId, tally: Tally, blocks: int, joules: float | None) -> None:
        """So much was computed for that peer, through so many blocks; None: nobody knows what that took."""
        busy_s = tally.busy_ms / 1e3
        known = (joules / 3600, 0.0) if joules is not None else (0.0, busy_s)
        self._add(
            peer,
            DaySum(
                gave_tokens=tally.tokens * blocks,
                gave_bytes=tally.bytes_in + tally.bytes_out,
                gave_s=busy_s,
                gave_wh=known[0],
                unmetered_s=known[1],
            ),
        )

    def used(self, peer: PeerId, tally: Tally, blocks: int) -> None:
        """So much was computed by that peer for this one."""
        self._add(peer, DaySum(used_tokens=tally.tokens * blocks, used_bytes=tally.bytes_in + tally.bytes_out))

    def waited(self, peer: PeerId, seconds: float) -> None:
        self._add(peer, DaySum(used_s=seconds))

    def keep(self, signed: SignedReceipt, peer: PeerId, note: str = "") -> None:
        """A running total, in the place of those before it; `peer` is the other side."""
        key = (signed.receipt.key, signed.server_signature is None, signed.asker_signature is None)
        with self._changed:
            self._begin()
            if key in self._receipts or len(self._receipts) < MAX_PENDING:
                self._receipts[key] = KeptReceipt(signed, peer, note)
                self._changed.notify_all()

    def today(self) -> tuple[int, int]:
        """Tokens times blocks that were given and used since local midnight."""
        with self._changed:
            self._begin()
            day, sums = self._today
            return (sums.gave_tokens, sums.used_tokens) if day == day_of(self._clock()) else (0, 0)

    def rows(self, days: int) -> list[LedgerRow]:
        """A row per day and peer, the last day first; reads the disk. Raises `BadLedger`."""
        with self._changed:
            self._begin()
        self._opened.wait(STOP_S)
        with self._writing:
            self._write()
            if self._store is None:
                raise BadLedger(f"the ledger {self._file} cannot be used; the log says why")
            return self._store.rows(days, self._clock())

    def close(self) -> None:
        """Write what is left; nothing is noted any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S)

    def _add(self, peer: PeerId, more: DaySum) -> None:
        day = day_of(self._clock())
        with self._changed:
            self._begin()
            self._sums[day, peer] = self._sums.get((day, peer), DaySum()).plus(more)
            before = self._today[1] if self._today[0] == day else DaySum()
            self._today = (day, before.plus(more))
            self._changed.notify_all()

    def _begin(self) -> None:
        """Called by whoever holds `_changed`."""
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with self._writing:
            self._open()
        self._opened.set()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._sums or self._receipts)
                self._changed.wait_for(lambda: self._closing, BATCH_S)
                closing = self._closing
            with self._writing:
                self._write()
                if closing:
                    if self._store is not None:
                        self._store.close()
                        self._store = None
                    return

    def _open(self) -> None:
        try:
            self._store = Store.open(self._file)
            day = day_of(self._clock())
            before = self._store.totals(day)
        except BadLedger as error:
            log.error("nothing is kept of what is given and used: %s", error)
            return
        with self._changed:
            if self._today[0] == day:
                self._today = (day, self._today[1].plus(before))

    def _write(self) -> None:
        """Called by whoever holds `_writing`."""
        with self._changed:
            sums, self._sums = self._sums, {}
            receipts, self._receipts = self._receipts, {}
        if self._store is None:
            return
        try:
            if sums or receipts:
                self._store.add(sums, receipts.values())
            if self._clock() - self._pruned_at >= PRUNE_S:
                self._pruned_at = self._clock()
                self._store.prune(self._pruned_at)
        except BadLedger as error:
            log.error("lost of the ledger: %d sums, %d receipts: %s", len(sums), len(receipts), error)
