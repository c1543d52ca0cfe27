"""The ledger's file: SQLite in the state folder, mode 0600, write-ahead log.

Sums by day and peer are kept for ever, receipts for `KEEP_S` and at most `MAX_RECEIPTS` of them.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from peerllm.errors import BadLedger
from peerllm.giving.days import DaySum, day_of, first_day
from peerllm.giving.receipts import Receipt, SignedReceipt
from peerllm.local.lending import LedgerRow
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
KEEP_S = 400 * 86400.0
MAX_RECEIPTS = 100_000

_BUSY_S = 5.0  # a command reads while the daemon writes
_SUMS = [field.name for field in fields(DaySum)]
_SCHEMA = f"""
CREATE TABLE day (
    day TEXT NOT NULL, peer TEXT NOT NULL, {", ".join(f"{name} NUMERIC NOT NULL" for name in _SUMS)},
    PRIMARY KEY (day, peer)
) WITHOUT ROWID;
CREATE TABLE receipt (
    server TEXT NOT NULL, asker TEXT NOT NULL, session BLOB NOT NULL, began_ms INTEGER NOT NULL,
    signed INTEGER NOT NULL,
    tokens INTEGER NOT NULL, ended_ms INTEGER NOT NULL, day TEXT NOT NULL, peer TEXT NOT NULL,
    body BLOB NOT NULL, server_signature BLOB, asker_signature BLOB, note TEXT NOT NULL,
    PRIMARY KEY (server, asker, session, began_ms, signed)
) WITHOUT ROWID;
CREATE INDEX receipt_by_end ON receipt(ended_ms);
CREATE INDEX receipt_by_day ON receipt(day, peer);
"""
_BY_SERVER, _BY_ASKER = 1, 2
_MUTUAL = _BY_SERVER | _BY_ASKER


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt between the ledger's owner and `peer`, with a word on why a signature is missing."""

    signed: SignedReceipt
    peer: PeerId
    note: str = ""


class _Damaged(BadLedger):
    """What is in the file is no ledger that this version can read."""


class Store:
    """One ledger file. Raises `BadLedger` everywhere; used by one thread at a time."""

    def __init__(self, db: sqlite3.Connection, file: Path) -> None:
        """For `open` and `reading` only."""
        self._db = db
        self._file = file

    @classmethod
    def open(cls, file: Path) -> Store:
        """The ledger to write to; one that is damaged or of a later version is set aside, and a new one begun."""
        try:
            return cls._prepared(file)
        except _Damaged as error:
            aside = _set_aside(file)
            log.error("ledger begun anew, the old one is kept as %s: %s", aside, error)
            return cls._prepared(file)

    @classmethod
    def reading(cls, file: Path) -> Store:
        """The ledger as it is, which is not changed."""
        if not file.exists():
            return cls._new(sqlite3.connect(":memory:"), file)
        with _explained(file):
            store = cls(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S), file)
            try:
                store._check_version()
                return store
            except BaseException:
                store.close()
                raise

    def close(self) -> None:
        self._db.close()

    def add(self, sums: Mapping[tuple[str, PeerId], DaySum], receipts: Iterable[KeptReceipt]) -> None:
        """`sums` come on top of what there is for a day and peer; all of it is written, or nothing."""
        marks = ", ".join("?" for _ in ("day", "peer", *_SUMS))
        grown = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
        with _explained(self._file), self._db:
            self._db.executemany(
                f"INSERT INTO day VALUES ({marks}) ON CONFLICT DO UPDATE SET {grown}",
                [(day, peer, *(getattr(one, name) for name in _SUMS)) for (day, peer), one in sums.items()],
            )
            for kept in receipts:
                self._keep(kept)

    def prune(self, now: float) -> None:
        """Forget receipts that are too old, or too many."""
        with _explained(self._file), self._db:
            self._db.execute("DELETE FROM receipt WHERE ended_ms < ?", (int((now - KEEP_S) * 1e3),))
            oldest = self._db.execute(
                "SELECT ended_ms FROM receipt ORDER BY ended_ms DESC LIMIT 1 OFFSET ?", (MAX_RECEIPTS,)
            ).fetchone()
            if oldest is not None:
                self._db.execute("DELETE FROM receipt WHERE ended_ms <= ?", oldest)

    def rows(self, days: int, now: float, peer: str = "") -> list[LedgerRow]:
        """Of so many days that end with today, the last one first, and on each day the peer with most tokens."""
        with _explained(self._file):
            found = self._db.execute(
                f"SELECT day, peer, {', '.join(_SUMS)},"
                " (SELECT count(*) FROM receipt WHERE receipt.day = day.day AND receipt.peer = day.peer AND signed = ?)"
                " FROM day WHERE day >= ? AND (? = '' OR peer = ?)"
                " ORDER BY day DESC, gave_tokens + used_tokens DESC, peer",
                (_MUTUAL, first_day(days, now), peer, peer),
            ).fetchall()
            return [_row(day, found_peer, DaySum(*sums), count) for day, found_peer, *sums, count in found]

    def totals(self, day: str) -> DaySum:
        """Of that day, of all peers together."""
        with _explained(self._file):
            sums = self._db.execute(
                f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in _SUMS)} FROM day WHERE day = ?", (day,)
            ).fetchone()
        return DaySum(*sums)

    def receipts(self) -> Iterator[KeptReceipt]:
        """All of them, the oldest first."""
        with _explained(self._file):
            found = self._db.execute(
                "SELECT body, server_signature, asker_signature, peer, note FROM receipt"
                " ORDER BY ended_ms, server, session"
            )
            for body, server_signature, asker_signature, peer, note in found:
                yield KeptReceipt(SignedReceipt(Receipt.unpack(body), server_signature, asker_signature), peer, note)

    def _keep(self, kept: KeptReceipt) -> None:
        """The last running total wins; what both sides have signed makes what one has signed before it void."""
        signed, receipt = kept.signed, kept.signed.receipt
        by = _BY_SERVER * (signed.server_signature is not None) + _BY_ASKER * (signed.asker_signature is not None)
        service = receipt.service
        self._db.execute(
            "INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " tokens = excluded.tokens, ended_ms = excluded.ended_ms, day = excluded.day, body = excluded.body,"
            " server_signature = excluded.server_signature, asker_signature = excluded.asker_signature,"
            " note = excluded.note WHERE excluded.tokens >= tokens AND excluded.ended_ms >= ended_ms",
            (
                service.server,
                service.asker,
                service.session,
                receipt.began_ms,
                by,
                receipt.token_blocks,
                receipt.ended_ms,
                day_of(receipt.ended_ms / 1e3),
                kept.peer,
                receipt.pack(),
                signed.server_signature,
                signed.asker_signature,
                kept.note,
            ),
        )
        if by == _MUTUAL:
            self._db.execute(
                "DELETE FROM receipt WHERE server = ? AND asker = ? AND session = ? AND began_ms = ?"
                " AND signed != ? AND tokens <= ? AND note NOT LIKE 'refused%'",
                (service.server, service.asker, service.session, receipt.began_ms, _MUTUAL, receipt.token_blocks),
            )

    @classmethod
    def _prepared(cls, file: Path) -> Store:
        with _explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            # SQLite gives its log the mode of the file, which must be right before anything is in either
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            file.chmod(0o600)
            return cls._new(sqlite3.connect(file, timeout=_BUSY_S, check_same_thread=False), file)

    @classmethod
    def _new(cls, db: sqlite3.Connection, file: Path) -> Store:
        """With its tables; closes the connection if that cannot be."""
        try:
            with _explained(file):
                store = cls(db, file)
                if store._check_version() == 0 and not store._tables():
                    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
                (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if sound != "ok" or not {"day", "receipt"} <= store._tables():
                    raise _Damaged(f"{file} is damaged or no ledger: {sound}")
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
                    db.execute(f"PRAGMA {pragma}")
                return store
        except BaseException:
            db.close()
            raise

    def _check_version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise _Damaged(f"{self._file} was written by a later version of peerllm (schema {version})")
        return version

    def _tables(self) -> set[str]:
        return {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _row(day: str, peer: str, sums: DaySum, receipts: int) -> LedgerRow:
    return LedgerRow(
        day=day,
        peer_id=peer,
        gave_tokens=sums.gave_tokens,
        used_tokens=sums.used_tokens,
        gave_bytes=sums.gave_bytes,
        used_bytes=sums.used_bytes,
        gave_s=float(sums.gave_s),
        used_s=float(sums.used_s),
        gave_wh=None if sums.unmetered_s or not sums.gave_s else float(sums.gave_wh),
        receipts=receipts,
    )


def _set_aside(file: Path) -> Path:
    """Moved away with its log; the file beside it is free for a new one."""
    aside = file.with_name(f"{file.name}.damaged")
    with _explained(file):
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                file.with_name(file.name + suffix).replace(aside.with_name(aside.name + suffix))
    return aside


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:  # locked, no room, no right: it may be sound
        raise BadLedger(f"the ledger {file} cannot be used: {error}") from error
    except sqlite3.Error as error:
        raise _Damaged(f"the ledger {file} is damaged: {error}") from error
