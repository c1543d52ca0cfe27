"""A member's slice of transformers' decoder blocks: some of their heads and some of their feed-forward columns.

The blocks are built from a config with so many heads and columns, and filled with those rows and columns of the
weights. What comes out of the attention's and the feed-forward's last layer is then a part of a sum, which the group
adds up before the bias and the residual.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from peerllm.engine.exchange import Exchange
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.engine.thread_cap import ThreadCap
from peerllm.engine.torch_families import DECODER_NAMES, Family
from peerllm.engine.torch_linear import QUANTISED
from peerllm.engine.torch_span import TorchSpan
from peerllm.engine.torch_weights import Cut, Part, TorchWeights
from peerllm.errors import EngineUnavailable, GroupBroken, UnsupportedModel
from peerllm.model.spec import ModelSpec
from peerllm_swarm.slices import BlockShape, BlockSlice, check_slices
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.progress import Progress

_SUMMED = ("self_attn.o_proj", "mlp.down_proj")
"""Their inputs are cut, so each member's output is a part of a sum."""


def block_shape(weights: TorchWeights) -> BlockShape:
    """Where the model's blocks can be cut; raises `UnsupportedModel` for families whose layers are fused."""
    if weights.family.names != DECODER_NAMES:
        raise UnsupportedModel(f"{weights.config.model_type}: its attention is one fused layer, which is not sliced")
    config: Any = weights.config
    heads = config.num_attention_heads
    return BlockShape(
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        feed_forward=config.intermediate_size,
        quantum=1,
    )


def part_of(shape: BlockShape, kept: BlockSlice) -> Part:
    """Which rows or columns of each of a block's tensors belong to the slice."""
    queries = tuple(head * shape.head_dim for head in kept.query_heads(shape))
    keys = tuple(head * shape.head_dim for head in kept.kv_heads)
    rows = {
        "self_attn.q_proj": queries,
        "self_attn.k_proj": keys,
        "self_attn.v_proj": keys,
        "mlp.gate_proj": kept.columns,
        "mlp.up_proj": kept.columns,
    }
    columns = dict(zip(_SUMMED, (queries, kept.columns), strict=True))

    def part(name: str) -> Cut | None:
        layer, _, kind = name.rpartition(".")
        if layer in rows:
            return Cut(0, *rows[layer])
        return Cut(1, *columns[layer]) if layer in columns and kind == "weight" else None

    return part


class SlicedWeights:
    """`TorchWeights` of one slice, with the config of a model that has no more heads and columns than that."""

    def __init__(self, weights: TorchWeights, shape: BlockShape, kept: BlockSlice) -> None:
        self._weights = weights
        self._part = part_of(shape, kept)
        config: Any = copy.deepcopy(weights.config)
        config.head_dim = shape.head_dim
        config.num_key_value_heads = kept.kv_heads[1] - kept.kv_heads[0]
        config.num_attention_heads = config.num_key_value_heads * shape.queries_per_kv_head
        config.intermediate_size = kept.columns[1] - kept.columns[0]
        self._config: PretrainedConfig = config

    @property
    def config(self) -> PretrainedConfig:
        return self._config

    @property
    def family(self) -> Family:
        return self._weights.family

    def ensure(self, span: BlockSpan, progress: Progress | None = None, part: Part | None = None) -> None:
        self._weights.ensure(span, progress, self._part)

    def block(self, number: int, part: Part | None = None) -> Iterator[tuple[str, Tensor]]:
        return self._weights.block(number, self._part)

    def ends(self, names: Sequence[str], progress: Progress | None = None) -> dict[str, Tensor]:
        return self._weights.ends(names, progress)

    def rope_factors(self) -> Tensor | None:
        return self._weights.rope_factors()


class TorchSlice:
    """`SliceEngine` over transformers blocks; sessions enter at the span's start."""

    def __init__(self, engine: TorchSpan, sums: Sequence[PartialSum]) -> None:
        """For `load` only."""
        self._engine = engine
        self._sums = sums

    @classmethod
    def load(
        cls,
        weights: TorchWeights,
        spec: ModelSpec,
        span: BlockSpan,
        slices: Sequence[BlockSlice],
        index: int,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        slots: int,
        context_tokens: int,
        threads: int | None = None,
        cap: ThreadCap | None = None,
        progress: Progress | None = None,
    ) -> TorchSlice:
        """Fetch, build and fill what member `index` holds; other arguments and errors are those of `TorchSpan.load`.

        Raises:
            EngineUnavailable: in int8 and NF4 a slice has other scales than the whole layer.
            UnsupportedModel: see `block_shape`; CannotSlice: the slices are not the whole block.
        """
        if dtype in QUANTISED:
            raise EngineUnavailable(f"slices are not quantised to {dtype}: their scales would differ; take bfloat16")
        shape = block_shape(weights)
        check_slices(shape, slices)
        sliced = SlicedWeights(weights, shape, slices[index])
        config: Any = sliced.config
        sums: list[PartialSum] = []
        engine = TorchSpan.load(
            sliced,
            replace(spec, heads=config.num_attention_heads, kv_heads=config.num_key_value_heads),
            span,
            dtype=dtype,
            device=device,
            slots=slots,
            context_tokens=context_tokens,
            threads=threads,
            cap=cap,
            progress=progress,
            adapt=lambda block: sums.extend(_summed(block)),
        )
        return cls(engine, sums)

    @property
    def info(self) -> EngineInfo:
        return replace(self._engine.info, free_entry=False)

    def join(self, exchange: Exchange) -> None:
        for each in self._sums:
            each.exchange = exchange

    def open(self) -> int:
        return self._engine.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        return self._engine.step(batch)

    def fork(self, source: int, to: int, into: int) -> None:
        self._engine.fork(source, to, into)

    def rewind(self, slot: int, to: int) -> None:
        self._engine.rewind(slot, to)

    def close(self, slot: int) -> None:
        self._engine.close(slot)

    def set_threads(self, threads: int) -> None:
        """Use so many threads from the next step on; 0 finds out how many."""
        self._engine.set_threads(threads)

    def shutdown(self) -> None:
        self._engine.shutdown()


class PartialSum(nn.Module):
    """A linear layer with some of its inputs: its outputs are the group's sum."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.exchange: Exchange | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.exchange is None:
            raise GroupBroken("a slice computes nothing before it has joined its group")
        part = nn.functional.linear(inputs, self.weight)
        total = part.to("cpu", torch.float32).contiguous()
        self.exchange.all_reduce(total.numpy())
        whole = total.to(part.device, part.dtype)
        return whole if self.bias is None else whole + self.bias


def _summed(block: nn.Module) -> Iterator[PartialSum]:
    """Put a sum in the place of each layer whose inputs are cut."""
    for name in _SUMMED:
        linear = block.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise UnsupportedModel(f"{name} is a {type(linear).__name__}, which is not sliced")
        summed = PartialSum(linear)
        block.set_submodule(name, summed)
        yield summed
