"""The seam between the swarm and the arithmetic: one loaded span, many sessions.

Two implementations: `llama_span.LlamaSpan` (GGUF in llama.cpp) and `torch_span.TorchSpan`
(transformers blocks). Both are synchronous and owned by one thread, the scheduler's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peerllm.model.spec import ModelSpec
from peerllm_swarm.span import BlockSpan

Hidden = NDArray[np.float32]
"""Hidden states ``[T, D]``, float32, C-contiguous, in main memory."""


@dataclass(frozen=True)
class Rows:
    """New tokens of one session for one engine step.

    The session enters the span at `enter` and leaves after block ``exit - 1`` (absolute numbers);
    both are the same in every step of a session. `position` is that of the first row.
    """

    slot: int
    position: int
    hidden: Hidden
    enter: int
    exit: int


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded span is: announced to the swarm and checked when a session opens."""

    engine: str  # "llama" or "torch"
    dtype: str  # of the arithmetic, as in the fingerprint: "q4_1", "float32", "bfloat16", "int8", "nf4"
    device: str  # "cpu", "cuda:0"
    span: BlockSpan
    slots: int
    context_tokens: int  # per slot
    weights_bytes: int  # in memory
    kv_bytes: int  # of all slots together
    free_entry: bool  # may a session enter behind span.start without paying for the blocks before?


class SpanEngine(Protocol):
    """Blocks of one model with a KV cache for `info.slots` sessions."""

    @property
    def info(self) -> EngineInfo: ...

    def open(self) -> int:
        """Take an empty KV slot; raises `NoSlot` if all are taken."""
        ...

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        """Run every row through its part of the span; ``[T, D]`` per entry, in order.

        A slot appears at most once per batch and its rows continue it without a gap.
        Raises `EngineError` when a position is beyond `context_tokens` or does not continue the slot.
        """
        ...

    def fork(self, source: int, to: int, into: int) -> None:
        """Have an empty slot hold the first `to` positions of another one, as if they had been computed in it.

        Raises `EngineError` if `source` holds fewer, or nothing can be copied here.
        """
        ...

    def rewind(self, slot: int, to: int) -> None:
        """Forget positions ``>= to`` of the slot."""
        ...

    def close(self, slot: int) -> None:
        """Give the slot back; its KV cache is forgotten."""
        ...

    def shutdown(self) -> None:
        """Free all memory; the engine cannot be used afterwards."""
        ...


class Ends(Protocol):
    """The two ends of a model, which the asking peer keeps: embedding before, norm and head behind."""

    def embed(self, tokens: Sequence[int]) -> Hidden:
        """``[T, D]`` float32."""
        ...

    def normed(self, hidden: Hidden) -> Hidden:
        """Final norm: ``[T, D]`` -> ``[T, D]``."""
        ...

    def logits(self, hidden: Hidden) -> NDArray[np.float32]:
        """Final norm and head: ``[T, D]`` -> ``[T, V]`` float32."""
        ...

    def shutdown(self) -> None: ...


def fingerprint(spec: ModelSpec, engine: str, dtype: str) -> str:
    """16 hex digits that two peers share only if their blocks compute the same numbers."""
    return hashlib.sha256(f"{spec.digest}/{engine}/{dtype}".encode()).hexdigest()[:16]
