"""Sessions whose routes are given beforehand, and engines that do what no engine should."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from peerllm.engine.span_engine import EngineInfo, Hidden, Rows, SpanEngine
from peerllm.errors import HistoryLost
from peerllm.generation.chain import Chain
from peerllm_swarm.span import PeerId

Damage = Callable[[list[Hidden]], list[Hidden]]


async def begin_anew(chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool) -> None:
    """A `Mend` for sessions in which nothing can be mended."""
    raise HistoryLost(chain.route.hops[0].peer_id, "nothing is kept")


def with_nan(outputs: list[Hidden]) -> list[Hidden]:
    return [np.full_like(rows, np.nan) for rows in outputs]


def with_absurd_values(outputs: list[Hidden]) -> list[Hidden]:
    return [rows * np.float32(1e30) for rows in outputs]


def with_another_width(outputs: list[Hidden]) -> list[Hidden]:
    return [np.ascontiguousarray(rows[:, :-1]) for rows in outputs]


def with_a_row_too_many(outputs: list[Hidden]) -> list[Hidden]:
    return [np.concatenate([rows, rows[-1:]]) for rows in outputs]


@dataclass
class FaultyEngine:
    """A `SpanEngine` that works until it is told otherwise: `damage` its outputs, or `hang` until `let_go`."""

    engine: SpanEngine
    damage: Damage | None = None
    delay_s: float = 0.0
    let_go: threading.Event = field(default_factory=threading.Event)
    hangs: bool = False
    sessions: int = 0  # opened so far
    rows: int = 0  # computed so far

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def open(self) -> int:
        self.sessions += 1
        return self.engine.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        if self.hangs or self.delay_s:
            self.let_go.wait(None if self.hangs else self.delay_s)
        self.rows += sum(len(rows.hidden) for rows in batch)
        outputs = self.engine.step(batch)
        return self.damage(outputs) if self.damage is not None else outputs

    def fork(self, source: int, to: int, into: int) -> None:
        self.engine.fork(source, to, into)

    def rewind(self, slot: int, to: int) -> None:
        self.engine.rewind(slot, to)

    def close(self, slot: int) -> None:
        self.engine.close(slot)

    def shutdown(self) -> None:
        self.engine.shutdown()
