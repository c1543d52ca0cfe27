"""Speculation on against off over distance: `bench.speculation`, with fewer answers than it makes by itself."""

from __future__ import annotations

from dataclasses import asdict

from bench.speculation import KINDS, PEERS, Row
from bench.speculation import measure as rows_of
from bench.speed.figure import Figure, Spread, Target
from bench.speed.part import Measured, Run

PART = "speculation"
DELAYS_MS = (20.0, 80.0)
ASKED = ("repeating text", "code rename", "free text")
ROUNDS, TOKENS = 2, 64
QUICK_TOKENS = 32


async def measure(run: Run) -> Measured:
    """Every answer is made with and without, and must be the same."""
    kinds = {name: KINDS[name] for name in (ASKED[:1] if run.quick else ASKED)}
    delays_ms, rounds = (DELAYS_MS[:1], 1) if run.quick else (DELAYS_MS, ROUNDS)
    tokens = QUICK_TOKENS if run.quick else TOKENS
    rows = [row async for row in rows_of(delays_ms, kinds, rounds=rounds, tokens=tokens)]
    return Measured([_figure(row, rounds) for row in rows], series={"rows": [asdict(row) for row in rows]})


def _figure(row: Row, rounds: int) -> Figure:
    return Figure(
        PART,
        f"SmolLM2: {PEERS} peers x 1 thread, {row.delay_ms:g} ms one way per link, {row.kind}",
        "the same without speculation",
        value=Spread(row.gain, row.low, row.high, rounds),
        target=Target(row.must, row.aim),
        seen=f"{row.on:.3g} / {row.off:.3g} tokens/s, {row.tokens_per_round:.1f} tokens a round trip",
        remark=f"lowest to highest of {rounds}",
    )
