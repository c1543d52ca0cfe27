"""distributed-llama's figures, recorded once: it is not installed here. Same class of machine, same 1B-class weights.

Its root and one worker had one thread each (Q40 weights, Q80 sync); llama.cpp was measured in the same session, so what
it gives now tells how fast this machine is beside that one.
"""

from __future__ import annotations

DLLAMA_TOKENS_S = 12.96
DLLAMA_MS = (67.0, 77.0)
"""Per token over its rounds, sync included."""

LLAMA_MS = {1: 62.6, 2: 29.1}
"""Threads -> ms per token of whole-model llama.cpp."""
