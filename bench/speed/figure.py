"""One figure that has to be shown: what was measured, how it scatters, and what it must be. Functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from statistics import median, quantiles
from typing import Any


class Verdict(StrEnum):
    AIM = "aim reached"
    MUST = "met"
    MISSED = "MISSED"
    NONE = ""
    """Shown beside the others, not judged."""
    UNMEASURED = "not measured"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the bursts that gave a number, and how many did not."""

    median: float
    low: float
    high: float
    count: int
    lost: int = 0

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """NaN stands for a burst that failed.

        Raises:
            ValueError: all of them did.
        """
        found = [sample for sample in samples if not math.isnan(sample)]
        if not found:
            raise ValueError(f"none of {len(samples)} bursts gave a number")
        low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
        return cls(median(found), low, high, len(found), len(samples) - len(found))


@dataclass(frozen=True)
class Target:
    """What a figure must be and should be; at least, unless it is a cost."""

    must: float | None = None
    aim: float | None = None
    at_most: bool = False

    def verdict(self, value: float) -> Verdict:
        if self.aim is not None and self._reached(value, self.aim):
            return Verdict.AIM
        if self.must is None:
            return Verdict.NONE
        return Verdict.MUST if self._reached(value, self.must) else Verdict.MISSED

    def reach(self, value: float) -> float | None:
        """1 where the must is just met, more where it is exceeded; None without a must."""
        if self.must is None or value <= 0:
            return None
        return self.must / value if self.at_most else value / self.must

    def _reached(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


@dataclass(frozen=True)
class Figure:
    """A row of the table. Without a `value` it could not be measured, and `remark` says why."""

    part: str
    name: str
    against: str = ""
    unit: str = "x"
    value: Spread | None = None
    target: Target = Target()
    seen: str = ""
    """The medians behind the value, in words."""
    remark: str = ""

    @property
    def verdict(self) -> Verdict:
        return Verdict.UNMEASURED if self.value is None else self.target.verdict(self.value.median)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict.value}

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Figure:
        kept = {key: value for key, value in read.items() if key != "verdict"}
        value = None if read["value"] is None else Spread(**read["value"])
        return replace(cls(**kept), value=value, target=Target(**read["target"]))


Samples = dict[str, list[float]]
"""Contender -> what its bursts gave, round by round; NaN for one that failed."""


def ratio_figure(
    part: str,
    model: str,
    samples: Mapping[str, Sequence[float]],
    ours: str,
    yardstick: str,
    target: Target = Target(),
    *,
    unit: str = "tokens/s",
    remark: str = "",
) -> Figure:
    """Ours against the yardstick, round by round: what disturbs a round mostly disturbs both."""
    row = Figure(part, f"{model}: {ours}", yardstick, target=target, remark=remark)
    try:
        value = Spread.of(ratios(samples[ours], samples[yardstick]))
    except ValueError as error:
        return replace(row, remark=str(error))
    return replace(row, value=value, seen=f"{_middle(samples[ours])} / {_middle(samples[yardstick])} {unit}")


def speed_up(
    part: str,
    model: str,
    samples: Mapping[str, Sequence[float]],
    ours: str,
    yardstick: str,
    target: Target,
    unit: str,
    remark: str,
) -> Figure:
    """Of times: how many times as fast ours is."""
    row = ratio_figure(part, model, samples, ours, yardstick, target, unit=unit, remark=remark)
    return row if row.value is None else replace(row, value=Spread.of(ratios(samples[yardstick], samples[ours])))


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    return [one / other if other else math.nan for one, other in zip(ours, theirs, strict=True)]


def _middle(samples: Sequence[float]) -> str:
    return f"{Spread.of(samples).median:.4g}"
