"""Keys and values of every slot of a span, allocated once and written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerllm.engine.torch_attention import Place
from peerllm_swarm.span import BlockSpan


class SlotCache:
    """Per block of the span two tensors ``[slots, kv_heads, context_tokens, head_dim]``."""

    def __init__(
        self,
        span: BlockSpan,
        shape: tuple[int, int, int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._first = span.start
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in span]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in span]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def at(self, place: Place) -> PlacedCache:
        return PlacedCache(self, place)

    def copy(self, slot: int, to: int, into: int) -> None:
        """Positions before `to` of one slot into another."""
        for stored in (*self._keys, *self._values):
            stored[into, :, :to] = stored[slot, :, :to]

    def forget(self, slot: int, start: int, end: int) -> None:
        """Zero positions ``[start, end)``: a masked value still counts as 0 * value, so no NaN may stay behind."""
        for stored in (*self._keys, *self._values):
            stored[slot, :, start:end] = 0

    def free(self) -> None:
        self._keys.clear()
        self._values.clear()

    def of(self, block: int) -> tuple[Tensor, Tensor]:
        return self._keys[block - self._first], self._values[block - self._first]


class PlacedCache:
    """The cache as one forward sees it: what attention in transformers calls `past_key_values`."""

    def __init__(self, cache: SlotCache, place: Place) -> None:
        self._cache = cache
        self._place = place

    def update(self, keys: Tensor, values: Tensor, block: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Store ``[B, heads, T, head_dim]`` of new rows; all rows ``[B, heads, S, head_dim]`` so far."""
        stored_keys, stored_values = self._cache.of(block)
        return self._put(stored_keys, keys), self._put(stored_values, values)

    def _put(self, stored: Tensor, new: Tensor) -> Tensor:
        # Falcon's new decoder hands over each key once per query head of its group; one of them is enough to keep.
        repeats = new.shape[1] // stored.shape[1]
        self._write(stored, new[:, ::repeats])
        rows = self._read(stored)
        return rows if repeats == 1 else rows.repeat_interleave(repeats, dim=1)

    def _write(self, stored: Tensor, new: Tensor) -> None:
        place = self._place
        for row, (slot, start) in enumerate(zip(place.slots, place.starts, strict=True)):
            stored[slot, :, start : start + place.rows] = new[row]

    def _read(self, stored: Tensor) -> Tensor:
        slots, reach = self._place.slots, self._place.reach
        if slots == tuple(range(slots[0], slots[0] + len(slots))):
            return stored[slots[0] : slots[0] + len(slots), :, :reach]  # neighbours: a view, no copy
        return stored[list(slots), :, :reach]
