"""A span of transformers' decoder blocks in torch: CPU, or CUDA with bitsandbytes where asked for.

Rows of sessions that decode (one row each, entering and leaving at the same blocks) go through each
block together; prefills go one session after the other, in chunks that bound the scratch memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from peerllm.engine.budget import prefill_rows
from peerllm.engine.slots import Slots
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.engine.thread_cap import ThreadCap
from peerllm.engine.threads import StepThreads
from peerllm.engine.torch_attention import Place
from peerllm.engine.torch_cache import SlotCache
from peerllm.engine.torch_linear import (
    QUANTISED,
    held_bytes,
    quantise_linears,
    quantised_weight,
    require_bitsandbytes,
)
from peerllm.engine.torch_weights import TorchWeights
from peerllm.errors import BadModelFile, EngineUnavailable
from peerllm.model.spec import ModelSpec
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.progress import Progress

COMPUTE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.bfloat16,
    "nf4": torch.bfloat16,
}


class TorchSpan:
    """`SpanEngine` over transformers blocks; every entry and exit inside the span is free."""

    def __init__(
        self,
        info: EngineInfo,
        blocks: dict[int, nn.Module],
        weights: TorchWeights,
        cache: SlotCache,
        *,
        hidden: int,
        threads: StepThreads,
    ) -> None:
        self._info = info
        self._blocks = blocks
        self._cache = cache
        self._device = torch.device(info.device)
        self._dtype = COMPUTE_DTYPES[info.dtype]
        self._threads = threads
        self._chunk = prefill_rows(hidden)
        self._slots = Slots(info, hidden)
        self._arguments = weights.family.arguments(weights.config)
        factors = weights.rope_factors()
        if factors is not None:
            self._arguments.scale_rope(factors)

    @classmethod
    def load(
        cls,
        weights: TorchWeights,
        spec: ModelSpec,
        span: BlockSpan,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        slots: int,
        context_tokens: int,
        threads: int | None = None,
        cap: ThreadCap | None = None,
        progress: Progress | None = None,
        adapt: Callable[[nn.Module], None] = lambda block: None,
    ) -> TorchSpan:
        """Fetch, build and fill the blocks of `span`, one tensor at a time.

        Args:
            threads: for arithmetic on the CPU, whichever thread steps the engine; 0 finds out while computing how many
                are fastest there, None leaves torch's choice.
            cap: never more than this, obeyed from one step to the next.
            adapt: changes each block once it is filled.
        Raises:
            EngineUnavailable: no such device here, or int8 or NF4 where bitsandbytes cannot run.
            BadModelFile: tensors that do not fit the config.
        """
        where = _usable_device(dtype, device)
        weights.ensure(span, progress)
        blocks = {number: _filled_block(weights, number, dtype, where) for number in span}
        for block in blocks.values():
            adapt(block)
        shape = (slots, spec.kv_heads, context_tokens, spec.head_dim)
        cache = SlotCache(span, shape, dtype=COMPUTE_DTYPES[dtype], device=where)
        info = EngineInfo(
            engine="torch",
            dtype=dtype,
            device=str(where),
            span=span,
            slots=slots,
            context_tokens=context_tokens,
            weights_bytes=sum(held_bytes(block) for block in blocks.values()),
            kv_bytes=cache.nbytes,
            free_entry=True,
        )
        wanted = torch.get_num_threads() if threads is None or where.type != "cpu" else threads
        return cls(info, blocks, weights, cache, hidden=spec.hidden, threads=StepThreads(wanted, cap))

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._slots.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        self._slots.check(batch)
        rows, started = sum(len(each.hidden) for each in batch), time.monotonic()
        torch.set_num_threads(self._threads.threads(rows))  # OpenMP keeps it per thread: whoever steps sets it
        outputs: dict[int, Hidden] = {}
        with torch.inference_mode():
            for together in _groups(batch):
                outputs.update(self._decode(together) if len(together) > 1 else self._alone(together[0]))
        self._threads.observe_step(rows, (time.monotonic() - started) / len(self._info.span))
        self._slots.advance(batch)
        return [outputs[rows.slot] for rows in batch]

    def fork(self, source: int, to: int, into: int) -> None:
        self._slots.fork(source, to, into)
        self._cache.copy(source, to, into)

    def rewind(self, slot: int, to: int) -> None:
        length = self._slots.rewind(slot, to)
        self._cache.forget(slot, to, length)

    def close(self, slot: int) -> None:
        length = self._slots.close(slot)
        self._cache.forget(slot, 0, length)

    def set_threads(self, threads: int) -> None:
        """Use so many threads from the next step on; 0 finds out how many."""
        self._threads = StepThreads(threads, self._threads.cap)

    def shutdown(self) -> None:
        self._blocks.clear()
        self._cache.free()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _decode(self, batch: Sequence[Rows]) -> dict[int, Hidden]:
        batch = sorted(batch, key=lambda rows: rows.slot)  # neighbouring slots are read without a copy
        place = Place(tuple(rows.slot for rows in batch), tuple(rows.position for rows in batch), 1)
        hidden = np.stack([rows.hidden for rows in batch])  # [B, 1, D]
        output = self._forward(place, hidden, batch[0].enter, batch[0].exit)
        return {rows.slot: output[index] for index, rows in enumerate(batch)}

    def _alone(self, rows: Rows) -> dict[int, Hidden]:
        parts = []
        for first in range(0, len(rows.hidden), self._chunk):
            hidden = rows.hidden[None, first : first + self._chunk]  # [1, T, D]
            place = Place((rows.slot,), (rows.position + first,), hidden.shape[1])
            parts.append(self._forward(place, hidden, rows.enter, rows.exit)[0])
        return {rows.slot: parts[0] if len(parts) == 1 else np.concatenate(parts)}

    def _forward(self, place: Place, rows: np.ndarray, enter: int, exit: int) -> np.ndarray:
        hidden = torch.tensor(rows, dtype=self._dtype, device=self._device)
        arguments = self._arguments.for_blocks(place, hidden, self._cache.at(place))
        for number in range(enter, exit):
            output = self._blocks[number](hidden, **arguments(number))
            hidden = output if isinstance(output, Tensor) else output[0]
        return hidden.to("cpu", torch.float32).numpy()


def _groups(batch: Sequence[Rows]) -> list[list[Rows]]:
    """Rows that may share a forward: decoding rows with one way through the span, prefills alone."""
    decoding: dict[tuple[int, int], list[Rows]] = defaultdict(list)
    groups: list[list[Rows]] = []
    for rows in batch:
        if len(rows.hidden) == 1:
            decoding[rows.enter, rows.exit].append(rows)
        else:
            groups.append([rows])
    return [*decoding.values(), *groups]


def _usable_device(dtype: str, name: str) -> torch.device:
    if dtype not in COMPUTE_DTYPES:
        raise EngineUnavailable(f"the torch engine computes in {', '.join(COMPUTE_DTYPES)}, not {dtype!r}")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineUnavailable(f"{name!r} is no device of torch") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineUnavailable(f"the torch engine runs on cpu and cuda, not on {device.type}")
    if dtype in QUANTISED:
        require_bitsandbytes(dtype, device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable(f"{name}: torch {torch.__version__} finds no CUDA here; take the device cpu")
    return device


def _filled_block(weights: TorchWeights, number: int, dtype: str, device: torch.device) -> nn.Module:
    with init_empty_weights():
        block = weights.family.block(weights.config, number)
    if dtype in QUANTISED:
        quantise_linears(block, dtype)
    missing = {name for name, _ in block.named_parameters()}
    for name, value in weights.block(number):
        if name in missing:  # old checkpoints also store buffers, such as rotary frequencies
            missing.discard(name)
            _fill(block, number, name, value, dtype, device)
    if missing:
        raise BadModelFile(f"block {number} lacks {', '.join(sorted(missing))}")
    return block.eval().requires_grad_(False)


def _fill(block: nn.Module, number: int, name: str, value: Tensor, dtype: str, device: torch.device) -> None:
    expected = block.get_parameter(name).shape
    if value.shape != expected:
        raise BadModelFile(f"block {number}: {name} is {list(value.shape)}, its config says {list(expected)}")
    layer, _, tensor = name.rpartition(".")
    if dtype in QUANTISED and tensor == "weight" and isinstance(block.get_submodule(layer), nn.Linear):
        block.get_submodule(layer).register_parameter(tensor, quantised_weight(value, dtype, device))
    else:
        set_module_tensor_to_device(block, name, device, value=value, dtype=COMPUTE_DTYPES[dtype])
