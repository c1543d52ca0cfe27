"""What a model is, before any of its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peerllm.errors import BadModelFile
from peerllm_swarm.span import MAX_BLOCKS, BlockSpan

MAX_DIMENSION = (1 << 31) - 1
"""Of any axis: what llama.cpp and torch can count with 32 bits."""


REPACKED = {"q4_1": "q4_0"}
"""Stored and repacked (`model.repack`): ggml has no repacked AVX2 kernel for Q4_1, and one for Q4_0."""


class WeightFormat(StrEnum):
    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True)
class ModelSpec:
    """Shape and identity of one model as stored.

    `digest` names the weights (hex sha256 of a GGUF file; of repository, revision and file list for
    safetensors): two peers with equal digests hold equal tensors. `block_bytes[i]` is what block i
    occupies on disk; `ends_bytes` are embedding, final norm and head together.
    """

    name: str
    architecture: str
    format: WeightFormat
    digest: str
    blocks: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int
    block_bytes: tuple[int, ...]
    ends_bytes: int
    quantisation: str
    licence: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.blocks <= MAX_BLOCKS or len(self.block_bytes) != self.blocks:
            raise BadModelFile(f"{self.name}: {self.blocks} blocks but {len(self.block_bytes)} block sizes")
        sizes = (self.hidden, self.heads, self.kv_heads, self.head_dim, self.vocab, self.context_tokens)
        if min(sizes) <= 0 or max(sizes) > MAX_DIMENSION or self.heads % self.kv_heads:
            raise BadModelFile(f"{self.name}: impossible dimensions (D, H, KV, head, V, context) = {sizes}")

    @property
    def whole(self) -> BlockSpan:
        return BlockSpan(0, self.blocks)

    @property
    def repacked_dtype(self) -> str | None:
        """What its weights may be repacked to; None where that gains nothing."""
        return REPACKED.get(self.quantisation.lower()) if self.format is WeightFormat.GGUF else None

    def span_bytes(self, span: BlockSpan) -> int:
        """Bytes of the span's weights as stored."""
        return sum(self.block_bytes[span.start : span.end])

    def kv_bytes_per_token(self, *, element_bytes: int = 2) -> int:
        """Bytes of keys and values that one block keeps per token (float16 unless said otherwise)."""
        return 2 * self.kv_heads * self.head_dim * element_bytes
