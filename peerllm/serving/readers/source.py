"""A thing that is asked at intervals: it may hang, fail or be absent, and nobody else waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
"""A source that failed so often in a row is asked at `RARELY_S` only."""

RARELY_S = 60.0

LIMIT_S = 5.0
"""An answer that takes longer is a failure; it is not asked again before it has come."""


class Unreadable(Exception):
    """Why something cannot be known here, for people: "no X server"."""


class Source(Generic[T]):
    """The last answer of one thing that is asked every so often; nothing of this raises."""

    def __init__(self, name: str, start: Callable[[], Future[T]], *, every_s: float, limit_s: float = LIMIT_S) -> None:
        """`name` says to people what is asked; an answer that takes longer than `limit_s` is none."""
        self.name = name
        self.why = "not asked yet"
        """Why there is no value; "" if there is one."""
        self._start = start
        self._every_s = every_s
        self._limit_s = limit_s
        self._next_s = float("-inf")
        self._asked_s = 0.0
        self._pending: Future[T] | None = None
        self._value: T | None = None
        self._failures = 0

    def begin(self, now_s: float) -> None:
        """Ask if it is time to; `now_s` is `time.monotonic()` throughout."""
        if self._pending is None and now_s >= self._next_s:
            self._asked_s = now_s
            self._next_s = now_s + self._every_s
            self._pending = self._start()

    def hurry(self) -> None:
        """Ask at the next opportunity: something has changed. From any thread."""
        if self._failures < TRIES:
            self._next_s = float("-inf")

    def value(self, until_s: float) -> T | None:
        """The last answer; one that is under way is waited for until then."""
        pending, now_s = self._pending, time.monotonic()
        if pending is None:
            return self._value
        try:
            self._value = pending.result(max(0.0, until_s - now_s))
            self.why, self._failures, self._pending = "", 0, None
        except CancelledError:
            self._failed("closed", now_s)
        except Exception as error:  # whatever one source throws, the others are read
            if pending.done():
                self._failed(_words(error), now_s)
            elif now_s - self._asked_s > self._limit_s:
                self._value, self.why = None, "does not answer"
        return self._value

    def _failed(self, why: str, now_s: float) -> None:
        if why != self.why:
            log.debug("not readable source=%s: %s", self.name, why)
        self.why, self._value, self._pending = why, None, None
        self._failures += 1
        if self._failures >= TRIES:
            self._next_s = now_s + RARELY_S


def here(ask: Callable[[], T]) -> Callable[[], Future[T]]:
    """Ask on the caller's thread: what cannot hang."""

    def start() -> Future[T]:
        future: Future[T] = Future()
        _settle(future, ask)
        return future

    return start


class Apart:
    """A thread for what can hang: a frozen X server, a network disk that is gone, a driver."""

    def __init__(self, name: str) -> None:
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # a daemon: one that hangs must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=f"read {name}", daemon=True)
        self._thread.start()

    def ask(self, ask: Callable[[], T]) -> Callable[[], Future[T]]:
        """Ask on this thread."""

        def start() -> Future[T]:
            future: Future[T] = Future()
            self._asked.put(lambda: _settle(future, ask))
            return future

        return start

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """End the thread, after `last` has run on it; one that hangs is left behind."""
        self._asked.put(last)
        self._asked.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (work := self._asked.get()) is not None:
            work()


def _settle(future: Future[T], ask: Callable[[], T]) -> None:
    try:
        future.set_result(ask())
    except Exception as error:  # raised where the answer is looked at
        future.set_exception(error)


def _words(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
