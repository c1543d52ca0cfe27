"""All figures in one picture: how far each is from what it must be, with the middle half of its bursts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from bench.speed.figure import Figure
from bench.speed.table import quantity
from peerllm.simulating.drawing import COLOURS, INK, LOOK, MISSING, PALE, figure, title

_ROW_IN = 0.30


def draw(figures: Sequence[Figure], path: Path) -> None:
    """A row per judged figure, as SVG: 1 is what it must be, to the right is better."""
    rows = [row for row in figures if row.value is not None and row.target.reach(max(row.value.median, 1e-9))]
    with rc_context(LOOK | {"svg.fonttype": "none"}):  # words as words: a quarter of the bytes
        made, (axes,) = figure([_ROW_IN * len(rows) + 0.6])
        for at, row in enumerate(reversed(rows)):
            _draw_row(axes, at, row)
        axes.set_xscale("log")
        axes.axvline(1.0, color=INK, linewidth=1.0)
        axes.set_xticks([0.5, 0.7, 1, 1.5, 2, 3, 5])
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)], fontsize=7.5)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel("times what it must be")
        title(made, "Speed", "Median and middle half of the bursts; the tick is the aim, the line what it must be")
        made.savefig(path, format="svg", metadata={"Date": None})


def _draw_row(axes: Any, at: int, row: Figure) -> None:
    value, target = row.value, row.target
    if value is None:
        raise ValueError(f"{row.name} has no value")
    points = [_shown(row, number) for number in (value.low, value.median, value.high)]
    met = points[1] >= 1.0
    colour = COLOURS[0] if met else MISSING
    axes.plot([points[0], points[2]], [at, at], color=colour, linewidth=2.0, alpha=0.6)
    axes.plot([points[1]], [at], marker="o", color=colour, markersize=5)
    axes.annotate(
        quantity(value.median, row.unit),
        (max(points), at),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=PALE,
    )
    if target.aim is not None:
        axes.plot([_shown(row, target.aim)], [at], marker="|", color=INK, markersize=9)


def _shown(row: Figure, number: float) -> float:
    """Where it stands on the axis; what is far beyond stands at its end."""
    reach = row.target.reach(number)
    return min(max(reach if reach is not None else 8.0, 0.2), 8.0)


def _label(row: Figure) -> str:
    return f"{row.name}\nagainst {row.against}" if row.against else row.name
