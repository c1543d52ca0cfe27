"""The parts of the run, in order, each in a process of its own: one that dies or hangs loses its rows alone."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from threading import Thread

import uvloop

from bench.speed.figure import Figure
from bench.speed.part import Measured, Run


@dataclass(frozen=True)
class Part:
    """A module of this package with a `measure`, and after how long it is given up."""

    name: str
    title: str
    limit_s: float


PARTS = (
    Part("hop", "A hop", 120),
    Part("pipeline", "A chain of peers", 700),
    Part("tensor", "A tensor-parallel group", 450),
    Part("tax", "The split's tax over distance, without speculation", 300),
    Part("first_token", "Time to the first token of a long prompt", 300),
    Part("speculation", "Speculation over distance", 400),
)

ALL_S = 24.5 * 60
"""For all parts together; on a quiet machine they take much less."""


def measured_apart(part: Part, run: Run, left_s: float) -> Measured:
    """What the part found within the time that is left; or one row that says how it ended instead."""
    if left_s <= 0:
        return Measured([Figure(part.name, part.title, remark="no time was left for it")])
    limit_s = min(part.limit_s, left_s)
    command = [sys.executable, "-m", "bench.speed.parts", part.name, json.dumps(asdict(run))]
    with (
        TemporaryFile("w+") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, start_new_session=True) as process,
    ):
        try:
            reason = f"ended with {process.wait(limit_s)}; its last words are above"
        except subprocess.TimeoutExpired:
            reason = f"did not end within {limit_s:.0f} s"
        finally:
            _end_group(process.pid)  # peers whose part is gone end by themselves, but not at once
        said.seek(0)
        lines = said.read().splitlines()
    try:
        return _read(lines[-1])
    except (IndexError, ValueError):
        return Measured([Figure(part.name, part.title, remark=reason)])


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read(line: str) -> Measured:
    read = json.loads(line)
    return Measured([Figure.from_json(row) for row in read["figures"]], read["samples"], read["series"])


def _end_with_parent() -> None:
    """In a session of its own nobody's Ctrl-C is heard; but standard input ends with whoever started this."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever said there
    _end_group(os.getpid())


def _measure(name: str, run: Run) -> None:
    measured = uvloop.run(importlib.import_module(f"bench.speed.{name}").measure(run))
    figures = [figure.as_json() for figure in measured.figures]
    print(json.dumps({"figures": figures, "samples": measured.samples, "series": measured.series}), flush=True)


if __name__ == "__main__":
    from peerllm.engine.threads import limit_spinning

    Thread(target=_end_with_parent, daemon=True).start()
    limit_spinning()  # before llama.cpp is loaded, as every daemon does
    _measure(sys.argv[1], Run(**json.loads(sys.argv[2])))
