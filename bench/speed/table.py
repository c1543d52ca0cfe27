"""The figures as a table: for the terminal, and as Markdown for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from bench.speed.figure import Figure, Spread, Target, Verdict

_COLUMNS = ("what", "against", "median", "middle half", "medians", "must", "aim", "")
_WIDTHS = (44, 34, 8, 15, 30, 8, 8, 14)


def text_table(figures: Sequence[Figure], titles: Mapping[str, str]) -> str:
    """One block per part."""
    lines = [_line(_COLUMNS)]
    for part, title in titles.items():
        rows = [figure for figure in figures if figure.part == part]
        if rows:
            lines += ["", title]
            lines += [_line(_cells(figure)) for figure in rows]
    return "\n".join(lines)


def markdown_table(figures: Sequence[Figure], titles: Mapping[str, str]) -> str:
    """One table per part."""
    tables: list[str] = []
    for part, title in titles.items():
        rows = [figure for figure in figures if figure.part == part]
        if rows:
            head = [f"**{title}**", "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
            tables.append("\n".join((*head, *(_row(_marked(figure)) for figure in rows))))
    return "\n\n".join(tables)


def tally(figures: Sequence[Figure]) -> str:
    """How many figures reach what."""
    judged = [figure for figure in figures if figure.verdict is not Verdict.NONE]
    counts = {verdict: sum(figure.verdict is verdict for figure in judged) for verdict in Verdict}
    said = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    return f"{len(judged)} figures: {', '.join(said)}"


def _cells(figure: Figure) -> tuple[str, ...]:
    value, target = figure.value, figure.target
    bursts = "" if value is None or not value.lost else f" ({value.lost} of {value.count + value.lost} bursts failed)"
    return (
        figure.name,
        figure.against,
        "" if value is None else quantity(value.median, figure.unit),
        "" if value is None else _middle_half(value, figure.unit),
        figure.seen + bursts,
        bound(target, target.must, figure.unit),
        bound(target, target.aim, figure.unit),
        ": ".join(word for word in (figure.verdict.value, figure.remark) if word),
    )


def quantity(value: float, unit: str) -> str:
    """As many digits as mean something."""
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:.1f} %" if unit == "%" else f"{value:.3f} {unit}"


def bound(target: Target, value: float | None, unit: str) -> str:
    """What must be reached, or not be exceeded."""
    return "" if value is None else f"{'<=' if target.at_most else '>='} {value:g}{'' if unit == 'x' else f' {unit}'}"


def _middle_half(value: Spread, unit: str) -> str:
    digits = 2 if unit == "x" else 1 if unit == "%" else 3
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    """Cells side by side, each wrapped within its width."""
    columns = [wrap(cell, width) or [""] for cell, width in zip(cells, _WIDTHS, strict=True)]
    height = max(map(len, columns))
    rows = [[column[at] if at < len(column) else "" for column in columns] for at in range(height)]
    padded = [[cell.ljust(width) for cell, width in zip(row, _WIDTHS, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _marked(figure: Figure) -> list[str]:
    """As cells, with what was missed in bold."""
    *cells, verdict = (cell.replace("|", "\\|") for cell in _cells(figure))
    missed = figure.verdict in (Verdict.MISSED, Verdict.UNMEASURED)
    return [*cells, f"**{verdict}**" if missed else verdict]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
