"""Weights in another quantisation than they are stored in, where ggml computes that one much faster.

A machine's owner asks for it (`engine.repack`), for it changes the numbers: such peers have a fingerprint of their own,
by the dtype, and never meet others in a route. docs/performance.md has what it gains and what it costs.
"""

from __future__ import annotations

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from peerllm.model.gguf import GgufFile
from peerllm.model.gguf_header import GgufTensor
from peerllm.model.gguf_writer import NewTensor

_DIVISORS = (-9.0, -8.5, -8.0, -7.5, -7.0, 6.5, 7.0, 7.5, 8.0)
"""The steps that are tried: with these the block's largest value lies at or near the end of -8 to 7."""

_VALUES_AT_ONCE = 1 << 20
"""Each is four bytes on the way."""


def repacked(gguf: GgufFile, tensor: GgufTensor, name: str) -> NewTensor:
    """The tensor in its faster type, or byte for byte if there is none."""
    if tensor.ggml_type is not GGMLQuantizationType.Q4_1:
        return NewTensor(name, tensor.ggml_type, tensor.shape, lambda: gguf.raw(tensor))
    return NewTensor(name, GGMLQuantizationType.Q4_0, tensor.shape, lambda: as_q4_0(gguf.raw(tensor)))


def as_q4_0(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The values of Q4_1 bytes as nearly as Q4_0 can hold them."""
    stored = GGMLQuantizationType.Q4_1
    (values, size), (_, new_size) = GGML_QUANT_SIZES[stored], GGML_QUANT_SIZES[GGMLQuantizationType.Q4_0]
    blocks = np.ascontiguousarray(raw).reshape(-1, size)
    found = np.empty((len(blocks), new_size), np.uint8)
    step = _VALUES_AT_ONCE // values
    for start in range(0, len(blocks), step):
        found[start : start + step] = _blocks(quants.dequantize(blocks[start : start + step], stored))
    return found.reshape(-1)


def _blocks(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks ``[N, 32]`` as Q4_0 (a step in float16, then two values a byte), with the step of the least square error.

    ggml's own quantiser takes the step by the largest value alone, which loses more.
    """
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    best = np.full(len(values), np.inf, np.float32)
    steps, codes = np.zeros((len(values), 1), np.float16), np.zeros(values.shape, np.uint8)
    for divisor in _DIVISORS:
        step = (largest / divisor).astype(np.float16)
        inverse = np.divide(1, step, dtype=np.float32, out=np.zeros(step.shape, np.float32), where=step != 0)
        code = np.clip(np.rint(values * inverse), -8, 7)
        error = np.square(code * step.astype(np.float32) - values).sum(axis=1)
        better = error < best
        best[better] = error[better]
        steps[better], codes[better] = step[better], (code[better] + 8).astype(np.uint8)
    packed = codes[:, :16] | (codes[:, 16:] << 4).astype(np.uint8)
    return np.concatenate([steps.view(np.uint8), packed], axis=1)
