"""Write a GGUF file tensor by tensor from bytes as stored, so that nothing is ever re-quantised."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class NewTensor:
    """One tensor to be written: `shape` is ggml's (fastest axis first), `read` returns its bytes as stored."""

    name: str
    ggml_type: GGMLQuantizationType
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.uint8]]

    @classmethod
    def float32(cls, name: str, values: NDArray[np.float32]) -> NewTensor:
        return cls(name, GGMLQuantizationType.F32, values.shape[::-1], lambda: values.reshape(-1).view(np.uint8))

    @property
    def nbytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.ggml_type]
        return prod(self.shape) // block * size


def write_gguf(
    path: Path,
    pairs: Mapping[str, bytes],
    tensors: Sequence[NewTensor],
    written: Callable[[int], None] = lambda _bytes: None,
) -> str:
    """Write the file and return its sha256 in hex; `pairs` are encoded values, `written` hears of every piece."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in _pieces(pairs, tensors):
            file.write(piece)
            digest.update(piece)
            written(len(piece))
    return digest.hexdigest()


def encode_text(value: str) -> bytes:
    return struct.pack("<I", _STRING) + _text(value)


def encode_number(value: int) -> bytes:
    return struct.pack("<II", _UINT32, value)


def encode_float(value: float) -> bytes:
    return struct.pack("<If", _FLOAT32, value)


def encode_texts(values: Sequence[str]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(map(_text, values))


def encode_numbers(values: Sequence[int]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, _INT32, len(values)) + np.asarray(values, "<i4").tobytes()


def _pieces(pairs: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> Iterable[memoryview | bytes]:
    header = _header(pairs, tensors)
    yield header + _padding(len(header))
    for tensor in tensors:
        yield from _copied(tensor.read())
        yield _padding(tensor.nbytes)


def _copied(data: NDArray[np.uint8]) -> Iterable[memoryview]:
    """Some at a time, so that a tensor that is cut out of a mapped one is never in memory as a whole."""
    rows = data.reshape(1, -1) if data.flags.c_contiguous else data
    at_once = max(1, _COPY_BYTES // max(1, rows.shape[1]))
    for first in range(0, len(rows), at_once):
        piece = np.ascontiguousarray(rows[first : first + at_once]).reshape(-1).data
        for start in range(0, len(piece), _COPY_BYTES):
            yield piece[start : start + _COPY_BYTES]


def _header(pairs: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    parts += [_text(key) + value for key, value in pairs.items()]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts.append(_text(tensor.name) + shape + struct.pack("<IQ", tensor.ggml_type, offset))
        offset += tensor.nbytes + len(_padding(tensor.nbytes))
    return b"".join(parts)


def _padding(length: int) -> bytes:
    return bytes(-length % ALIGNMENT)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
