"""The models that are measured, with what is asked of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from bench.models import ONE_BILLION, model_file
from peerllm.model.store import ModelStore, StoredModel
from peerllm_swarm.span import BlockSpan

CACHE = platformdirs.user_cache_path("peerllm", appauthor=False) / "bench"


@dataclass(frozen=True)
class Subject:
    """One model on disk."""

    name: str
    stored: StoredModel

    @property
    def path(self) -> Path:
        return self.stored.files[0].path

    def spans(self, peers: int) -> list[BlockSpan]:
        """As even as its blocks divide."""
        borders = [round(self.stored.spec.blocks * part / peers) for part in range(peers + 1)]
        return [BlockSpan(start, end) for start, end in itertools.pairwise(borders)]

    def prompts(self, count: int, tokens: int) -> list[Sequence[int]]:
        """Noise, the same in every run."""
        noise = np.random.default_rng(0)
        return [noise.integers(100, self.stored.spec.vocab - 100, tokens).tolist() for _ in range(count)]


def smollm2() -> Subject:
    """SmolLM2-135M-Instruct Q4_1, the embedded default: D = 576, 30 blocks, 9/3 heads."""
    from tests.support.embedded import embedded_gguf

    return Subject("SmolLM2", ModelStore(CACHE / "store").open(str(embedded_gguf())))


def one_billion() -> Subject:
    """Random weights of a 1B-class model, Q4_0: D = 2048, 16 blocks, 32/8 heads."""
    return Subject("1B-class", ModelStore(CACHE / "store").open(str(model_file(ONE_BILLION, CACHE))))
