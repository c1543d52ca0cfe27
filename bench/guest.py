"""How good a guest peerllm is: what its owner's programs lose, how soon it steps aside, what memory comes back.

    ./dev bench guest [--quick] [--seconds S] [--rounds N] [--json]

A daemon lends this machine with the policy "always, politely" and serves the whole embedded model; another one, in the
lowest class and hence no burden itself, asks it without a pause. Beside them a fixed computation runs in one process
per core: on all cores, and on all but one; with lending paused and with lending, in turns. Then the pause is timed: on
the owner's word, and on a pointer that moves (a virtual X server, xdotool); and what memory is back after a release.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil

from bench.foreground import computed_per_s
from bench.machine import describe
from peerllm.engine.courtesy import lower_this_thread
from peerllm.engine.load import load_span
from peerllm.engine.threads import limit_spinning, usable_cores
from peerllm.engine.throughput import measure
from peerllm.errors import PeerllmError
from peerllm.local.client import ChatMessage
from peerllm.locations import Locations
from peerllm.model.catalog import DEFAULT
from peerllm.model.store import ModelStore, StoredModel
from tests.support.daemons import Daemon

MOST_SLOWED, MOST_STRETCHED, PAUSE_S, MEMORY_S, MEMORY_SHARE = 0.03, 1.5, 2.0, 10.0, 0.8
READY_S, POLL_S, RESUME_S, IDLE_S = 180.0, 0.02, 3, 3
FOR_NOW_S = 3600.0
ANSWER_TOKENS = 24

T = TypeVar("T")


@dataclass
class Asking:
    """Answers without end from one daemon; `steps_ms` is when each ended and what its tokens took at the giver."""

    daemon: Daemon
    steps_ms: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask, name="asking")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def between(self, start: float, end: float) -> list[float]:
        return [step_ms for at, step_ms in self.steps_ms if start <= at < end]

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                self._answer()
            except PeerllmError:  # the giver has paused: nobody serves
                self._over.wait(0.2)

    def _answer(self) -> None:
        options = {"max_tokens": ANSWER_TOKENS, "temperature": 0}
        question = [ChatMessage("user", "Count from one to ninety-nine in words.")]
        with self.daemon.client() as client:
            for _ in client.chat(DEFAULT, question, options=options):
                if self._over.is_set():
                    return
            account = client.requests()[0]
        for hop in account.hops:
            if hop.measured is not None:
                self.steps_ms.append((time.monotonic(), hop.measured.compute_ms))


@dataclass
class Giving:
    """The daemon that lends."""

    daemon: Daemon

    def lend(self) -> None:
        """Go on, and wait until it serves."""
        self._tell(lambda client: client.pause(0))
        until(lambda: self._phase() == "serving")

    def pause(self) -> float:
        """On the owner's word; the seconds until nothing is served any more."""
        began = time.monotonic()
        self._tell(lambda client: client.pause(time.time() + FOR_NOW_S))
        until(self.rests)
        return time.monotonic() - began

    def rests(self) -> bool:
        return self._phase() == "paused"

    def share(self, on: bool) -> None:
        self._tell(lambda client: client.share(on))

    def set(self, **values: object) -> None:
        self._tell(lambda client: client.set_limits({f"guest.{name}": value for name, value in values.items()}))

    def why(self) -> str:
        with self.daemon.client() as client:
            return client.guest().reason

    @property
    def memory_bytes(self) -> int:
        return psutil.Process(self.daemon.process.pid).memory_info().rss

    def _phase(self) -> str:
        status = self.daemon.status()
        return status.lifecycle.name if status else ""

    def _tell(self, what: Callable[[Any], object]) -> None:
        with self.daemon.client() as client:
            what(client)


@dataclass(frozen=True)
class Scene:
    """Rounds beside a foreground of so many processes: work per second without and with lending, the giver's steps."""

    processes: int
    alone: tuple[float, ...]
    beside: tuple[float, ...]
    steps_ms: tuple[float, ...]
    reasons: tuple[str, ...]

    @property
    def slowed(self) -> float:
        """Median of the rounds' own ratios: neighbours of this machine change from round to round."""
        return 1 - median(beside / alone for alone, beside in zip(self.alone, self.beside, strict=True))


def play(giving: Giving, asking: Asking, processes: int, rounds: int, seconds: float) -> Scene:
    alone, beside, reasons = list[float](), list[float](), list[str]()
    steps_ms: list[float] = []
    for _ in range(rounds):
        giving.pause()
        alone.append(computed_per_s(processes, seconds))
        giving.lend()
        asked_before = len(asking.steps_ms)
        with contextlib.suppress(TimeoutError):
            until(lambda before=asked_before: len(asking.steps_ms) > before, within_s=20.0)
        start = time.monotonic()
        with told_late(giving, seconds) as told:
            beside.append(computed_per_s(processes, seconds))
        steps_ms += asking.between(start, time.monotonic())
        reasons += told
    return Scene(processes, tuple(alone), tuple(beside), tuple(steps_ms), tuple(reasons))


@contextmanager
def told_late(giving: Giving, seconds: float) -> Iterator[list[str]]:
    """What the governor says shortly before so many seconds are over."""
    told: list[str] = []
    asking = threading.Timer(0.8 * seconds, lambda: told.append(giving.why()))
    asking.start()
    try:
        yield told
    finally:
        asking.join()


def one_thread_step_ms(model: StoredModel) -> float:
    """One token through all blocks, one thread, nothing else running."""
    engine = load_span(model, model.spec.whole, engine="llama", slots=1, context_tokens=256, threads=1)
    try:
        return measure(engine, model.spec.hidden).decode_ms_per_block * model.spec.blocks
    finally:
        engine.shutdown()


def pause_on_pointer_s(giving: Giving, display: str) -> float:
    """From a pointer that moves until nothing is served, with a policy that waits for the user."""
    giving.lend()
    giving.set(policy="custom", idle_after_s=IDLE_S, most_others_cores=1.0)
    with contextlib.suppress(TimeoutError):
        until(giving.rests, within_s=10.0)  # Xvfb counts from its start: the user has just been there
    until(lambda: not giving.rests() and "sharing" in giving.why())
    began = time.monotonic()
    for position in ("10", "60"):
        subprocess.run(["xdotool", "mousemove", position, position], env={**os.environ, "DISPLAY": display}, check=True)
    until(giving.rests)
    return time.monotonic() - began


def memory_back(giving: Giving, span_bytes: int) -> tuple[float, float]:
    """Share of the span's size that the daemon's memory fell by within `MEMORY_S`, and after how many seconds."""
    before, began = giving.memory_bytes, time.monotonic()
    giving.share(False)
    best, at = 0.0, 0.0
    while time.monotonic() - began < MEMORY_S:
        share = (before - giving.memory_bytes) / span_bytes
        if share > best + 0.01:
            best, at = share, time.monotonic() - began
        time.sleep(0.1)
    return best, at


@contextmanager
def virtual_display() -> Iterator[str]:
    """ "" where Xvfb or xdotool is missing."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        yield ""
        return
    ours, theirs = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(theirs), "-screen", "0", "320x200x24", "-nolisten", "tcp"],
        pass_fds=[theirs],
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    try:
        with os.fdopen(ours) as told:
            yield f":{told.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def settings(swarm: str) -> dict[str, str]:
    return {
        "SWARM_NAME": swarm,
        "SWARM_PUBLIC": "true",
        "SWARM_DHT": "false",
        "MODELS_DIR": str(Locations.of().models_dir),
        "CONTRIBUTION_MODEL": DEFAULT,
        "ENGINE_KIND": "llama",
        "API_PORT": "0",
        "GUEST_POLICY": "polite",
        "GUEST_RESUME_S": str(RESUME_S),
        "GUEST_PROGRAMS": "",
    }


def in_lowest_class(work: Callable[[], T]) -> T:
    """What `work` returns; the processes it starts stay in the lowest class."""
    made: list[T] = []

    def run() -> None:
        lower_this_thread()
        made.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return made[0]


def until(holds: Callable[[], bool], within_s: float = READY_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(POLL_S)


def run(rounds: int, seconds: float) -> dict[str, Any]:
    model = ModelStore(Locations.of().models_dir).open(DEFAULT)
    cores, found = usable_cores(), dict[str, Any](machine=describe(), model=model.spec.name)
    found["one_thread_ms"] = one_thread_step_ms(model)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        display = stack.enter_context(virtual_display())
        swarm = f"bench-{os.getpid()}"
        with _display(display):
            giving = Giving(Daemon(folder / "giver", settings(swarm)))
        stack.callback(_end, giving.daemon)
        asker = in_lowest_class(lambda: Daemon(folder / "asker", settings(swarm)))
        stack.callback(_end, asker)
        until(lambda: giving.daemon.status() is not None and asker.status() is not None)
        giving.share(True)
        giving.daemon.wait_until_serving(READY_S)
        asking = Asking(asker)
        with asking.going_on():
            until(lambda: bool(asking.steps_ms))
            counts = [cores, cores - 1] if cores > 1 else [cores]
            found["scenes"] = [play(giving, asking, count, rounds, seconds) for count in counts]
            giving.lend()
            found["pause_owner_s"] = [_paused_again(giving) for _ in range(rounds)]
            if display:
                found["pause_pointer_s"] = [pause_on_pointer_s(giving, display) for _ in range(rounds)]
                giving.set(policy=None, idle_after_s=None, most_others_cores=None)
        giving.lend()
        found["memory"] = memory_back(giving, model.spec.span_bytes(model.spec.whole))
    found["one_thread_after_ms"] = one_thread_step_ms(model)
    return found


def _paused_again(giving: Giving) -> float:
    giving.lend()
    return giving.pause()


@contextmanager
def _display(name: str) -> Iterator[None]:
    """For what is started meanwhile."""
    before = os.environ.get("DISPLAY")
    if name:
        os.environ["DISPLAY"] = name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("DISPLAY", None)
        else:
            os.environ["DISPLAY"] = before


def _end(daemon: Daemon) -> None:
    daemon.process.terminate()
    daemon.process.wait(60)


def show(found: dict[str, Any]) -> None:
    print(found["machine"])
    step_ms = min(found["one_thread_ms"], found["one_thread_after_ms"])
    print(f"{found['model']}, whole; one thread alone: {step_ms:.1f} ms per token")
    for scene in found["scenes"]:
        _show_scene(scene, step_ms)
    for name, times in (("the owner's word", found["pause_owner_s"]), ("the pointer", found.get("pause_pointer_s"))):
        if times is None:
            print(f"pause on {name}: not measured, Xvfb or xdotool is missing")
        else:
            print(f"pause on {name}: {_spread(times)} s {_verdict(max(times) <= PAUSE_S, f'<= {PAUSE_S:g}')}")
    share, at = found["memory"]
    enough = _verdict(share >= MEMORY_SHARE, f">= {MEMORY_SHARE:.0%} within {MEMORY_S:g} s")
    print(f"memory back after a release: {share:.0%} of the span's size after {at:.1f} s {enough}")


def _show_scene(scene: Scene, step_ms: float) -> None:
    print(f"foreground in {scene.processes} processes:")
    print(f"  work per second, lending paused: {_spread(scene.alone)}; lending: {_spread(scene.beside)}")
    print(f"  slowed by {scene.slowed:.1%} {_verdict(scene.slowed <= MOST_SLOWED, f'<= {MOST_SLOWED:.0%}')}")
    if scene.steps_ms:
        stretched = median(scene.steps_ms) / step_ms
        verdict = _verdict(stretched <= MOST_STRETCHED, f"<= {MOST_STRETCHED:g}")
        print(f"  the peer's step: {_spread(scene.steps_ms)} ms, {stretched:.2f} times one thread alone {verdict}")
    else:
        print("  the peer made no answer meanwhile")
    print(f"  it said: {scene.reasons[-1]}")


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _verdict(met: bool, must: str) -> str:
    return f"[must {must}: {'met' if met else 'MISSED'}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each: does it run?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of foreground per round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_spinning()
    found = run(1, 6.0) if given.quick else run(given.rounds, given.seconds)
    if given.json:
        json.dump(found, sys.stdout, default=vars)
    else:
        show(found)


if __name__ == "__main__":
    main()
