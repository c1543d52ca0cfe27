"""How many rows of a session may be computed together for each to come out as it would alone."""

from __future__ import annotations

from peerllm.engine.span_engine import EngineInfo

GRAPH_ROWS = 48
"""As in `llama_context`, which loads llama.cpp; beyond it rows are in another graph anyway."""

SAME_IN_ANY_BATCH = frozenset({"q4_0", "q4_1", "q8_0"})
"""Quantisations of which ggml adds up the products of one row in the same order as those of several. For K-quants, from
4 rows on (8 for q6_K), and for float16 and float32, from 2 rows on, it has kernels that add in another one; so have
torch's libraries for anything."""


def exact_rows(info: EngineInfo) -> int:
    """At least 1. What it costs where it is 1: every row reads the weights anew (docs/adr/0023)."""
    return GRAPH_ROWS if info.engine == "llama" and info.dtype in SAME_IN_ANY_BATCH else 1
