"""An engine that misbehaves on order: what a broken or hostile peer makes of the rows it is given."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from peerllm.engine.span_engine import EngineInfo, Hidden, Rows, SpanEngine

SLOWNESS = 10
_LOOK_S = 0.05


class Fault(StrEnum):
    """What happens to a step."""

    NONE = "none"
    GARBAGE = "garbage"  # random bytes, read as numbers
    LIE = "lie"  # other numbers of the right size: nothing about them is impossible
    NAN = "nan"  # one number of each row
    SHAPE = "shape"  # a column or a row too few
    SLOW = "slow"  # `SLOWNESS` times as long
    HANG = "hang"  # for ever: the engine's thread does not return


@dataclass(frozen=True)
class Damage:
    """The order: which fault, in which part of the steps, and the seed of what is random about it."""

    fault: Fault = Fault.NONE
    probability: float = 1.0
    seed: int = 0

    def write(self, file: Path) -> None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> Damage:
        """None at all where there is no such file."""
        try:
            order = json.loads(file.read_text())
        except FileNotFoundError:
            return cls()
        return cls(Fault(order["fault"]), order["probability"], order["seed"])


class DamagedEngine:
    """A `SpanEngine` that obeys the order which is in force when a step begins."""

    def __init__(self, engine: SpanEngine, order: Callable[[], Damage]) -> None:
        self._engine = engine
        self._order = order
        self._last = Damage()
        self._random = np.random.default_rng(0)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def open(self) -> int:
        return self._engine.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        order = self._order()
        if order != self._last:
            self._last, self._random = order, np.random.default_rng(order.seed)
        is_hit = order.fault is not Fault.NONE and self._random.random() < order.probability
        if is_hit and order.fault is Fault.HANG:
            self._hang()
        began = time.perf_counter()
        outputs = self._engine.step(batch)
        if not is_hit:
            return outputs
        if order.fault is Fault.SLOW:
            time.sleep((SLOWNESS - 1) * (time.perf_counter() - began))
            return outputs
        return [self._damaged(hidden, order.fault) for hidden in outputs]

    def fork(self, source: int, to: int, into: int) -> None:
        self._engine.fork(source, to, into)

    def rewind(self, slot: int, to: int) -> None:
        self._engine.rewind(slot, to)

    def close(self, slot: int) -> None:
        self._engine.close(slot)

    def shutdown(self) -> None:
        self._engine.shutdown()

    def _hang(self) -> None:
        while self._order().fault is Fault.HANG:
            time.sleep(_LOOK_S)

    def _damaged(self, hidden: Hidden, fault: Fault) -> Hidden:
        match fault:
            case Fault.GARBAGE:
                return np.frombuffer(self._random.bytes(hidden.nbytes), np.float32).reshape(hidden.shape).copy()
            case Fault.LIE:
                size = np.abs(hidden).mean(dtype=np.float64)
                return (self._random.standard_normal(hidden.shape) * size).astype(np.float32)
            case Fault.NAN:
                hidden = hidden.copy()
                hidden[:, self._random.integers(hidden.shape[1])] = np.nan
                return hidden
            case Fault.SHAPE:
                shorter = hidden[:, :-1] if self._random.random() < 0.5 else hidden[:-1]
                return np.ascontiguousarray(shorter)
            case _:
                return hidden
