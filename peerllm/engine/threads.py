"""How many threads an engine runs: as many as measurably help, and never more than there are cores to spare.

ggml's threads wait for one another by spinning. Where another program takes a core of theirs, a step takes up to 30
times as long as with one thread, so the count goes down at the first sign and comes back by trials.
Source: measurements in docs/performance.md#threads.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from statistics import median

import psutil

from peerllm.engine.thread_cap import ThreadCap

TRIAL_STEPS = 6
"""Steps whose median judges a count of threads."""

WORTHWHILE = 0.95
"""More threads stay only if they bring a step's time below this part of what it was: they cost others their cores."""

JUMP, GREAT_JUMP = 2.5, 8.0
"""Two steps of three that take so many times the median, or one that takes much more, mean that a core was lost."""

FORGET_S = 60.0
"""Times older than this say nothing: caches have grown, other programs have come and gone."""

FIRST_PATIENCE_S, MAX_PATIENCE_S = 4.0, 300.0
"""After a count has failed it is tried again after this long, then after twice as long, and so on."""

SPARE = 0.35
"""Of one core: so much may other programs use before a thread makes room for them."""

LOOK_EVERY_S = 1.0
SEARCH_EVERY_S = 30.0

_OURS = re.compile(r"p2pd|peerllm(\.\w+)*")
"""`peerllm`, `-m peerllm.cli`, and hivemind's carrier of messages."""

MANY_ROWS = 16
"""From here on a step's time grows with its rows; below, all of them wait for the same weights."""


SPIN_COUNT = "10000"
"""GOMP_SPINCOUNT, about 0.1 ms: how long OpenMP's threads spin for work before they sleep. With the default they spin
on for milliseconds after a step, on the core where the next peer of this machine now computes. Three processes in turn
with 2 threads on 2 cores, ms per step: D = 2048: 10.7 -> 3.9 (one process alone 3.3); D = 576: 8.2 -> 1.5 (alone 1.1).
Spinning less slows the barriers within a step: asleep at once (OMP_WAIT_POLICY=passive) loses what 2 threads gain."""


def limit_spinning() -> None:
    """Set `SPIN_COUNT` for this process, unless its owner chose; before torch or llama.cpp load OpenMP."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


class StepThreads:
    """How many threads an engine's next step runs: a fixed number or a measured one, within what is allowed now."""

    def __init__(self, wanted: int, cap: ThreadCap | None = None) -> None:
        """`wanted` of 0 finds out while computing how many are fastest."""
        self._wanted = wanted
        self.cap = cap or ThreadCap()
        self._measured = None if wanted else MeasuredThreads(self.cap)

    @property
    def may_be_several(self) -> bool:
        return self._wanted != 1

    def threads(self, rows: int) -> int:
        """For the next step, which has so many rows."""
        return self._measured.threads(rows) if self._measured else self.cap.limit(self._wanted)

    def observe_step(self, rows: int, block_s: float) -> None:
        """The step just made took `block_s` per block."""
        if self._measured:
            self._measured.observe_step(rows, block_s)


class MeasuredThreads:
    """A `ThreadTuner` at work: this machine's clock, cores and other programs, and what its owner allows."""

    def __init__(self, cap: ThreadCap) -> None:
        self._cap = cap
        self._tuner = ThreadTuner(usable_cores())
        self._others = OtherPrograms()
        self._looked_s = time.monotonic()

    def threads(self, rows: int) -> int:
        """For the next step, which has so many rows."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._tuner.observe_load(self._others.cores(now_s - self._looked_s), now_s)
            self._looked_s = now_s
        self._tuner.cap = self._cap.now
        return self._tuner.threads(rows)

    def observe_step(self, rows: int, block_s: float) -> None:
        """The step just made took `block_s` per block."""
        self._tuner.observe_step(rows, block_s, time.monotonic())


@dataclass
class _Kind:
    """What is known of steps of about the same number of rows."""

    threads: int = 1
    patience_s: float = FIRST_PATIENCE_S
    try_after_s: float = -math.inf
    times: dict[int, deque[tuple[float, float]]] = field(default_factory=dict)  # threads -> (when, step time)
    jumps: deque[bool] = field(default_factory=lambda: deque(maxlen=3))


class ThreadTuner:
    """Turns step times and other programs' load into a number of threads; it reads no clock itself."""

    def __init__(self, cores: int) -> None:
        self.cap = 0
        """Never more than this, whatever was found out; 0 is no cap."""
        self._cores = max(1, cores)
        self._free = self._cores
        self._kinds: dict[int, _Kind] = {}

    def threads(self, rows: int) -> int:
        """For the next step, which has so many rows."""
        return self._capped(self._kind(rows).threads)

    def observe_step(self, rows: int, block_s: float, now_s: float) -> None:
        """A step of `rows` took `block_s` per block with the threads that `threads` said."""
        kind = self._kind(rows)
        threads = self._capped(kind.threads)
        step_s = block_s / rows if rows >= MANY_ROWS else block_s
        known = _recent(kind, threads, now_s)
        if _jumped(kind, known, step_s) and threads > 1:
            self._fall_back(kind, _lower(threads), now_s)
            return
        kind.times.setdefault(threads, deque(maxlen=2 * TRIAL_STEPS)).append((now_s, step_s))
        if len(known) + 1 >= TRIAL_STEPS and threads == kind.threads:
            self._judge(kind, threads, now_s)

    def observe_load(self, others: float, now_s: float) -> None:
        """Other programs use so many cores: make room for them at once, and take it back by trials."""
        self._free = max(1, min(self._cores, math.floor(self._cores - others + SPARE)))
        for kind in self._kinds.values():
            if kind.threads > self._free:
                self._fall_back(kind, self._free, now_s)

    def _capped(self, threads: int) -> int:
        return min(threads, self.cap) if self.cap > 0 else threads

    def _kind(self, rows: int) -> _Kind:
        """Steps of one row, of a few, of many: what helps the one can harm the other."""
        return self._kinds.setdefault(min(rows, MANY_ROWS).bit_length(), _Kind())

    def _judge(self, kind: _Kind, threads: int, now_s: float) -> None:
        """Enough steps with this count: keep it, go back, or try more."""
        lower = max((n for n in kind.times if n < threads and len(_recent(kind, n, now_s)) >= TRIAL_STEPS), default=0)
        if lower and median(_recent(kind, threads, now_s)) > WORTHWHILE * median(_recent(kind, lower, now_s)):
            self._fall_back(kind, lower, now_s)
            return
        if lower:
            kind.patience_s = FIRST_PATIENCE_S
        room = self._capped(self._free)
        if now_s >= kind.try_after_s and threads < room:
            kind.threads = min(_higher(threads), room)
            kind.times.pop(kind.threads, None)

    def _fall_back(self, kind: _Kind, threads: int, now_s: float) -> None:
        kind.threads = threads
        kind.jumps.clear()
        kind.try_after_s = now_s + kind.patience_s
        kind.patience_s = min(2 * kind.patience_s, MAX_PATIENCE_S)


class OtherPrograms:
    """How many cores are used by what is not peerllm.

    Neighbours on one machine mostly compute in turn, and where they do not, step times tell.
    """

    def __init__(self, *, search_every_s: float = SEARCH_EVERY_S) -> None:
        """New processes of peerllm's own are looked for so often while others seem busy."""
        self._search_every_s = search_every_s
        self._family = _family()  # process -> processor seconds when last seen
        self._searched_s = time.monotonic()
        self._last = self._used()
        self._latest = 0.0

    def cores(self, elapsed_s: float) -> float:
        """On average over the `elapsed_s` since the last call."""
        before, self._last = self._last, self._used()
        cores = max(0.0, (self._last - before) / elapsed_s)
        if cores > SPARE and time.monotonic() - self._searched_s > self._search_every_s and self._found_more():
            return self._latest  # it may have been those
        self._latest = cores
        return cores

    def _found_more(self) -> bool:
        self._searched_s = time.monotonic()
        known, self._family = self._family, _family()
        self._last = self._used()
        return not known.keys() >= self._family.keys()

    def _used(self) -> float:
        """Processor seconds used by anybody else since the machine started."""
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        for process in self._family:
            self._family[process] = _processor_seconds(process, self._family[process])
        return busy - sum(self._family.values())


def usable_cores() -> int:
    """Physical cores that this process may use: a second thread on one core only waits for the first."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _recent(kind: _Kind, threads: int, now_s: float) -> list[float]:
    return [step_s for when, step_s in kind.times.get(threads, ()) if now_s - when <= FORGET_S]


def _jumped(kind: _Kind, known: list[float], step_s: float) -> bool:
    """Against the median with the same threads, or with one thread while there are no others yet."""
    usual = median(known) if known else min((s for times in kind.times.values() for _, s in times), default=math.inf)
    kind.jumps.append(step_s > JUMP * usual)
    return step_s > GREAT_JUMP * usual or sum(kind.jumps) >= 2


def _higher(threads: int) -> int:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: half as many again."""
    return threads + max(1, 1 << (threads.bit_length() - 2)) if threads > 1 else 2


def _lower(threads: int) -> int:
    return max(1, threads // 2)


def _family() -> dict[psutil.Process, float]:
    """This process, its children, and other peerllm processes."""
    found = {psutil.Process(), *psutil.Process().children(recursive=True)}
    for process in psutil.process_iter(["cmdline"]):
        if is_peerllm(process.info["cmdline"] or ()):
            found.add(process)
    return {process: _processor_seconds(process, 0.0) for process in found}


def is_peerllm(command: Sequence[str]) -> bool:
    """By the programs that a command line names first: folders on the way to them say nothing."""
    names = (PurePath(word).name for word in command[:4])
    return any(_OURS.fullmatch(name) for name in names)


def _processor_seconds(process: psutil.Process, before: float) -> float:
    """What the process has used; one that is gone keeps what it had."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return before
    return times.user + times.system
