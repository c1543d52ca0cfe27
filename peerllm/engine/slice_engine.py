"""The seam of a tensor-parallel member: a `SpanEngine` whose partial sums a group adds up within every block.

Two implementations: `llama_span.LlamaSpan` over a file of `slice_gguf.cut_slice`, and the torch engine's slice.
"""

from __future__ import annotations

from typing import Protocol

from peerllm.engine.exchange import Exchange
from peerllm.engine.span_engine import SpanEngine


class SliceEngine(SpanEngine, Protocol):
    """A slice of every block of `info.span`; its steps are those of all members, in the same order."""

    def join(self, exchange: Exchange) -> None:
        """Exchange partial sums through this from the next step on; a slice that has not joined computes nothing.

        Twice per block, behind `attn_output` and behind `ffn_down`, `exchange.all_reduce` puts the members' sum in
        place of the own part. What is then raised is `GroupBroken`.
        """
        ...
