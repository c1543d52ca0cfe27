"""Every figure of docs/performance.md's section Speed in one run: `./dev bench speed [--quick] [--only PART,...]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.peer import DIRECT, LIBP2P
from bench.speed.document import with_block
from bench.speed.figure import Figure
from bench.speed.part import Run
from bench.speed.parts import ALL_S, PARTS, Part, measured_apart
from bench.speed.table import markdown_table, tally, text_table
from peerllm.engine.threads import usable_cores

_ROOT = Path(__file__).parents[2]
PAGE, PICTURE = _ROOT / "docs" / "performance.md", _ROOT / "docs" / "images" / "speed.svg"
TITLES = {part.name: part.title for part in PARTS}

READING = """\
Contenders take turns in short bursts. A ratio is taken in every round; medians and quartiles are those of all rounds.
A chain computes one hop at a time, so with one stream "the same threads" are those of one peer, which is all that
computes at any moment. Where streams or chunks keep all peers busy, llama.cpp has the threads of all peers together, as
far as there are cores. The other reading stands beside it without a verdict."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench speed", description=__doc__)
    parser.add_argument("--only", default=",".join(TITLES), help=f"parts, of {', '.join(TITLES)}")
    parser.add_argument("--quick", action="store_true", help="a few rounds of the most important contenders")
    parser.add_argument("--transport", choices=(DIRECT, LIBP2P), default=DIRECT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, every burst included")
    parser.add_argument("--write-docs", action="store_true", help=f"table and plot into {PAGE.relative_to(_ROOT)}")
    given = parser.parse_args()
    unknown = set(given.only.split(",")) - TITLES.keys()
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(TITLES)}")
    report = _Report(Run(given.quick, given.transport, usable_cores()), given.json)
    print(f"{describe()}\n\n{READING}\n")
    for part in PARTS:
        if part.name in given.only.split(","):
            report.add(part)
    print(f"{report.conditions}\n{tally(report.figures)}")
    if given.write_docs:
        write_docs(report.figures, report.conditions)


def write_docs(figures: Sequence[Figure], conditions: str) -> None:
    """Table and plot of a run, instead of those of the run before."""
    from bench.speed.plot import draw

    draw(figures, PICTURE)
    picture = f"![How far each figure is from what it must be](images/{PICTURE.name})"
    block = "\n\n".join((conditions, READING, picture, markdown_table(figures, TITLES), f"{tally(figures)}."))
    PAGE.write_text(with_block(PAGE.read_text(), block))


class _Report:
    """What has been measured so far; every part is shown and kept as soon as it is there."""

    def __init__(self, run: Run, kept: Path | None) -> None:
        self.figures: list[Figure] = []
        self._run = run
        self._kept = kept
        self._started = time.monotonic()
        self._machine, self._load_before = describe(), os.getloadavg()
        self._samples: dict[str, Any] = {}
        self._series: dict[str, Any] = {}

    def add(self, part: Part) -> None:
        print(f"{part.title} ...", file=sys.stderr, flush=True)
        measured = measured_apart(part, self._run, ALL_S - (time.monotonic() - self._started))
        self.figures += measured.figures
        self._samples[part.name], self._series[part.name] = measured.samples, measured.series
        print(f"{text_table(measured.figures, TITLES)}\n", flush=True)
        if self._kept:
            self._kept.write_text(json.dumps(self._as_json(), indent=1) + "\n")

    @property
    def conditions(self) -> str:
        """On what, how and beside what else it was measured, in one line."""
        before, after = self._load_before[0], os.getloadavg()[0]
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        return (
            f"{self._machine}. {'Quick' if self._run.quick else 'Full'} run of {minutes} min {seconds} s, load "
            f"{before:.1f} before and {after:.1f} after (its own included); streams: {self._run.transport}."
        )

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": self._machine,
            "load_before": self._load_before,
            "load_after": os.getloadavg(),
            "took_s": round(time.monotonic() - self._started),
            **asdict(self._run),
            "figures": [figure.as_json() for figure in self.figures],
            "samples": self._samples,
            "series": self._series,
        }


if __name__ == "__main__":
    main()
