"""The figures of `./dev bench speed`: ratios, verdicts, tables, and the block of the page that it writes."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import count
from pathlib import Path

import pytest

from bench.speed.__main__ import PAGE, TITLES
from bench.speed.document import BEGIN, END, with_block
from bench.speed.figure import Figure, Spread, Target, Verdict, ratio_figure, speed_up
from bench.speed.part import Run
from bench.speed.parts import PARTS, measured_apart
from bench.speed.plot import draw
from bench.speed.table import markdown_table, tally, text_table
from bench.speed.tax import excess_percent
from bench.speed.turns import Effort, numbers, take_turns

NAN = math.nan


def figure(name: str, value: float, target: Target) -> Figure:
    return Figure("tax", name, "the yardstick", value=Spread(value, value, value, 3), target=target)


def test_spread_has_median_and_quartiles_and_counts_what_was_lost() -> None:
    assert Spread.of([4.0, NAN, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, count=5, lost=1)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, count=1)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 2 bursts"):
        Spread.of([NAN, NAN])


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target(0.93, 0.97), 0.97, Verdict.AIM),
        (Target(0.93, 0.97), 0.93, Verdict.MUST),
        (Target(0.93, 0.97), 0.929, Verdict.MISSED),
        (Target(0.15, 0.08, at_most=True), 0.08, Verdict.AIM),
        (Target(0.15, 0.08, at_most=True), 0.15, Verdict.MUST),
        (Target(0.15, 0.08, at_most=True), 0.16, Verdict.MISSED),
        (Target(1.15, at_most=True), 1.0, Verdict.MUST),
        (Target(aim=3.0), 2.9, Verdict.NONE),
        (Target(aim=3.0), 3.0, Verdict.AIM),
        (Target(), 9.0, Verdict.NONE),
    ],
)
def test_verdict(target: Target, value: float, verdict: Verdict) -> None:
    assert target.verdict(value) is verdict


def test_reach_is_one_where_the_must_is_just_met() -> None:
    assert Target(0.9).reach(0.9) == 1.0
    assert Target(0.9).reach(1.8) == 2.0
    assert Target(0.2, at_most=True).reach(0.1) == 2.0
    assert Target(aim=3.0).reach(1.0) is None


def test_ratio_is_taken_round_by_round() -> None:
    samples = {"ours": [10.0, 30.0, 50.0], "llama.cpp": [20.0, 30.0, 200.0]}

    row = ratio_figure("tax", "SmolLM2", samples, "ours", "llama.cpp", Target(0.5))

    assert row.value == Spread(0.5, 0.375, 0.75, count=3)
    assert row.seen == "30 / 30 tokens/s"
    assert row.verdict is Verdict.MUST


def test_speed_up_is_how_many_times_as_fast() -> None:
    row = speed_up("tax", "SmolLM2", {"ours": [10.0, 20.0], "one": [20.0, 40.0]}, "ours", "one", Target(), "ms", "")

    assert row.value == Spread(2.0, 2.0, 2.0, count=2)
    assert row.seen == "15 / 30 ms"


def test_ratio_leaves_out_rounds_in_which_either_failed() -> None:
    row = ratio_figure("tax", "SmolLM2", {"a": [NAN, 3.0, 4.0], "b": [1.0, NAN, 2.0]}, "a", "b")

    assert row.value == Spread(2.0, 2.0, 2.0, count=1, lost=2)


def test_ratio_without_any_whole_round_is_a_row_that_says_so() -> None:
    row = ratio_figure("tax", "SmolLM2", {"a": [NAN], "b": [1.0]}, "a", "b", Target(1.0))

    assert (row.verdict, row.remark) == (Verdict.UNMEASURED, "none of 1 bursts gave a number")


def test_figure_survives_json() -> None:
    rows = [figure("one", 1.5, Target(1.2, 2.0)), Figure("hop", "another", remark="it is not there")]

    assert [Figure.from_json(json.loads(json.dumps(row.as_json()))) for row in rows] == rows


def test_turns_go_forth_and_back_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    ticks = count()

    async def burst(name: str) -> float:
        order.append(name)
        return float(next(ticks))

    contenders = {"a": lambda: burst("a"), "b": lambda: burst("b")}
    samples = asyncio.run(take_turns(contenders, Effort(2, math.inf)))

    assert "".join(order) == "baabba"
    assert numbers(samples) == {"a": [2.0, 5.0], "b": [3.0, 4.0]}


def test_burst_that_fails_is_a_nan(capsys: pytest.CaptureFixture[str]) -> None:
    async def burst() -> float:
        raise OSError("the link is gone")

    samples = asyncio.run(take_turns({"a": burst}, Effort(2, math.inf)))

    assert [math.isnan(sample) for sample in numbers(samples)["a"]] == [True, True]
    assert "the link is gone" in capsys.readouterr().err


def test_turns_end_when_their_time_is_up_but_not_before_three_rounds() -> None:
    async def burst() -> float:
        return 1.0

    assert len(asyncio.run(take_turns({"a": burst}, Effort(100, budget_s=-1.0)))["a"]) == 3


def test_excess_over_what_was_predicted() -> None:
    assert excess_percent(105.0, 100.0) == pytest.approx(5.0)
    assert excess_percent(99.0, 100.0) == pytest.approx(-1.0)


def test_tables_have_every_row_under_its_title() -> None:
    rows = [figure("far|away", 4.0, Target(5.0, at_most=True)), Figure("hop", "a socket", remark="no such module")]

    text, markdown = text_table(rows, TITLES), markdown_table(rows, TITLES)

    for table in (text, markdown):
        assert table.index(TITLES["hop"]) < table.index(TITLES["tax"])
        assert "no such module" in table
    assert "| far\\|away | the yardstick | 4.00x | 4.00 to 4.00 |  | <= 5 |  | met |" in markdown
    assert "**not measured: no such module**" in markdown
    assert TITLES["pipeline"] not in text + markdown
    assert tally(rows) == "2 figures: 1 met, 1 not measured"


def test_failed_bursts_are_told() -> None:
    row = Figure("tax", "far", value=Spread(1.0, 1.0, 1.0, count=2, lost=3), seen="1 / 1")

    assert "1 / 1 (3 of 5 bursts failed)" in markdown_table([row], TITLES)


def test_plot_shows_every_judged_row(tmp_path: Path) -> None:
    rows = [
        figure("above", 2.0, Target(1.0, 1.5)),
        figure("a cost of nothing", -1.0, Target(5.0, at_most=True)),
        figure("not judged", 1.0, Target()),
    ]

    for name in ("one.svg", "two.svg"):
        draw(rows, tmp_path / name)

    words = (tmp_path / "one.svg").read_text()
    assert "above" in words
    assert "a cost of nothing" in words
    assert "not judged" not in words
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_block_replaces_what_stood_between_the_marks() -> None:
    page = f"# Page\n{BEGIN}\nold\n{END}\nrest\n"

    once = with_block(page, "new\n")

    assert once == f"# Page\n{BEGIN}\nnew\n{END}\nrest\n"
    assert with_block(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        with_block(page, "new")


def test_page_of_the_docs_has_its_marks() -> None:
    assert with_block(PAGE.read_text(), "new") != PAGE.read_text()


def test_part_for_which_no_time_is_left_is_a_row_that_says_so() -> None:
    [row] = measured_apart(PARTS[0], Run(quick=True, transport="direct", cores=2), left_s=0.0).figures

    assert (row.verdict, row.remark) == (Verdict.UNMEASURED, "no time was left for it")
