"""Conversations kept on this disk, for their owner alone; the daemon itself stores none.

SQLite in the state folder: mode 0600, write-ahead log, deleted text overwritten.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from peerllm.errors import BadHistory
from peerllm.locations import Locations
from peerllm_tui.conversation import Conversation, Sampling, Turn

SCHEMA_VERSION = 1
MOST_FOUND = 200
"""Conversations that a list or a search gives at most, the latest first."""

_BUSY_S = 2.0  # another window of the same owner writes
_SCHEMA = """
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL, system TEXT NOT NULL,
    temperature REAL, top_p REAL, max_tokens INTEGER,
    created_at REAL NOT NULL, changed_at REAL NOT NULL
);
CREATE TABLE turn (
    conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    place INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, remark TEXT NOT NULL,
    PRIMARY KEY (conversation_id, place)
) WITHOUT ROWID;
CREATE INDEX conversation_by_change ON conversation(changed_at);
"""


@dataclass(frozen=True)
class Listed:
    """A conversation in a list, changed last at a Unix time."""

    id: int
    name: str
    model: str
    changed_at: float


class History:
    """The conversations of one home. Raises `BadHistory` everywhere; belongs to one thread."""

    def __init__(self, file: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        """Without a `file` it is kept in memory, and gone with this process."""
        self.file = file
        self._clock = clock
        with self._explained():
            self._db = _opened(file)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    @property
    def is_kept(self) -> bool:
        return self.file is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def save(self, conversation: Conversation) -> Conversation:
        """Keep it as it is now; returns it with its id."""
        with self._explained(), self._db:
            kept = conversation if conversation.id else replace(conversation, id=self._new_id())
            changed = self._db.execute(
                "UPDATE conversation SET title=?, name=?, model=?, system=?, temperature=?, top_p=?, max_tokens=?,"
                " changed_at=? WHERE id=?",
                (*_row(kept), self._clock(), kept.id),
            ).rowcount
            if not changed:  # deleted by another window: what was said there since is not brought back
                return kept
            self._db.execute("DELETE FROM turn WHERE conversation_id=?", (kept.id,))
            self._db.executemany(
                "INSERT INTO turn VALUES (?, ?, ?, ?, ?)",
                [
                    (kept.id, place, turn.role, _storable(turn.content), turn.remark)
                    for place, turn in enumerate(kept.turns)
                ],
            )
            return kept

    def load(self, conversation_id: int) -> Conversation:
        with self._explained():
            row = self._db.execute(
                "SELECT title, model, system, temperature, top_p, max_tokens FROM conversation WHERE id=?",
                (conversation_id,),
            ).fetchone()
            if row is None:
                raise BadHistory("that conversation has been deleted")
            turns = self._db.execute(
                "SELECT role, content, remark FROM turn WHERE conversation_id=? ORDER BY place", (conversation_id,)
            ).fetchall()
        title, model, system, *sampling = row
        return Conversation(
            conversation_id, title, model, system, Sampling(*sampling), tuple(Turn(*turn) for turn in turns)
        )

    def listed(self, words: str = "", *, most: int = MOST_FOUND) -> list[Listed]:
        """The latest conversations in which every one of the words stands, in a title or a turn."""
        found = "".join(
            " AND (name LIKE ? ESCAPE '\\' OR EXISTS"
            " (SELECT 1 FROM turn WHERE conversation_id=conversation.id AND content LIKE ? ESCAPE '\\'))"
            for _ in words.split()
        )
        patterns = [pattern for word in words.split() for pattern in [_containing(word)] * 2]
        with self._explained():
            rows = self._db.execute(
                f"SELECT id, name, model, changed_at FROM conversation WHERE 1{found}"
                " ORDER BY changed_at DESC, id DESC LIMIT ?",
                (*patterns, most),
            ).fetchall()
        return [Listed(*row) for row in rows]

    def rename(self, conversation_id: int, title: str) -> None:
        """An empty title brings that of the first question back."""
        self.save(replace(self.load(conversation_id), title=" ".join(title.split())))

    def delete(self, conversation_id: int) -> None:
        with self._explained(), self._db:
            self._db.execute("DELETE FROM conversation WHERE id=?", (conversation_id,))

    def delete_all(self) -> int:
        """How many there were. Nothing of them is left in the file or its log."""
        with self._explained():
            with self._db:
                deleted = self._db.execute("DELETE FROM conversation").rowcount
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def _new_id(self) -> int:
        now = self._clock()
        added = self._db.execute(
            "INSERT INTO conversation (title, name, model, system, created_at, changed_at)"
            " VALUES ('', '', '', '', ?, ?)",
            (now, now),
        )
        return added.lastrowid or 0

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON", "synchronous=NORMAL"):
            self._db.execute(f"PRAGMA {pragma}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise BadHistory(f"{self.file} was written by a later version of peerllm (schema {version})")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            where = self.file or "the history in memory"
            raise BadHistory(f"{where} cannot be used: {error}; move it away to begin anew") from error


def open_history(locations: Locations, *, keep: bool) -> tuple[History, str]:
    """The kept conversations, or those of this run alone and why."""
    if not keep:
        return History(None), ""
    try:
        locations.create()
        return History(locations.conversations_file), ""
    except (BadHistory, OSError) as error:
        return History(None), f"{error}. Until then nothing is kept."


def _opened(file: Path | None) -> sqlite3.Connection:
    if file is None:
        return sqlite3.connect(":memory:")
    file.parent.mkdir(parents=True, exist_ok=True)
    # SQLite gives its log the mode of the file, which must be right before the first word is in either
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.close(descriptor)
    file.chmod(0o600)
    return sqlite3.connect(file, timeout=_BUSY_S)


def _row(conversation: Conversation) -> tuple[object, ...]:
    drawn = conversation.sampling
    texts = (conversation.title, conversation.name, conversation.model, conversation.system)
    return (*map(_storable, texts), drawn.temperature, drawn.top_p, drawn.max_tokens)


def _storable(text: str) -> str:
    """SQLite stores UTF-8, in which halves of surrogate pairs cannot be written."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _containing(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
