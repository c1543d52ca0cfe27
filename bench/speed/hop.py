"""What a hop's own way costs: `bench.hop` several times over."""

from __future__ import annotations

from bench.hop import DIRECT, LIBP2P, TCP, Result
from bench.hop import measure as one_run
from bench.speed.figure import Figure, Spread, Target
from bench.speed.part import Measured, Run

PART = "hop"
RUNS, QUICK_RUNS, ROUNDS = 5, 2, 20
TARGETS = {DIRECT: Target(0.15, 0.08, at_most=True), LIBP2P: Target(0.8, at_most=True)}


async def measure(run: Run) -> Measured:
    """Every run has a process of its own on the other side."""
    results = [await one_run(ROUNDS) for _ in range(QUICK_RUNS if run.quick else RUNS)]
    figures = [_figure(name, results) for name in TARGETS]
    samples = {name: [result.round_trip_ms[name].p50 for result in results] for name in (TCP, *TARGETS)}
    return Measured(figures, {"round trips, ms": samples})


def _figure(name: str, results: list[Result]) -> Figure:
    value = Spread.of([result.added_ms[name] for result in results])
    ours, tcp = (Spread.of([result.round_trip_ms[of].p50 for result in results]).median for of in (name, TCP))
    return Figure(
        PART,
        f"[1, 4096] float16 there and back, {name} stream",
        "raw TCP",
        "ms",
        value,
        TARGETS[name],
        f"{ours:.3f} - {tcp:.3f} ms",
    )
