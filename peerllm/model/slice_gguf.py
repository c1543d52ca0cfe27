"""Cut a slice of a span out of a model's GGUF: what one member of a tensor-parallel group holds of every block.

The slice's heads are rows of q, k and v and columns of `attn_output`; its feed-forward columns are rows of gate and up
and columns of `ffn_down`. Norms, and biases behind a sum, are whole on every member. Bytes are copied as quantised:
rows lie together in the file, so only those of the slice are fetched; columns are pieces of every row, so of those two
tensors a member fetches all and keeps its part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from peerllm.errors import BadModelFile, UnsupportedModel
from peerllm.model.cut_files import cached
from peerllm.model.gguf import GgufFile
from peerllm.model.gguf_header import GgufTensor
from peerllm.model.gguf_writer import NewTensor, encode_number, encode_text, write_gguf
from peerllm.model.span_gguf import (
    copied,
    gguf_of,
    placeholders,
    refuse_unadmitted,
    renumbered,
    shared_tensors,
    span_metadata,
)
from peerllm_swarm.slices import BlockShape, BlockSlice
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.progress import Progress
    from peerllm.model.store import StoredModel

LAYOUT = 1
"""Raised when the same slice would be cut to other bytes: old files are then cut again."""

_QUERY_ROWS = ("attn_q.weight", "attn_q.bias")
_KEY_ROWS = ("attn_k.weight", "attn_k.bias", "attn_v.weight", "attn_v.bias")
_INNER_ROWS = ("ffn_gate.weight", "ffn_gate.bias", "ffn_up.weight", "ffn_up.bias")
_QUERY_COLUMNS, _INNER_COLUMNS = "attn_output.weight", "ffn_down.weight"
_WHOLE = frozenset(
    {
        *("attn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight", "ffn_norm.weight"),
        *("attn_output.bias", "ffn_down.bias"),  # added behind the sum, so once by everybody
    }
)


_LOADED_AS = {"qwen2": ("seed_oss", {"ffn_norm.weight": "post_attention_norm.weight"})}
"""llama.cpp's qwen2 demands that all heads together are as wide as the hidden states, which a slice's are not. seed_oss
is the same block, biases and rotary pairs included, with one norm under another name; that the numbers are the same is
shown in tests/node/test_llama_slice.py."""


def block_shape(model: StoredModel) -> BlockShape:
    """Where this model's blocks can be cut.

    Raises:
        UnsupportedModel: no admitted GGUF, or one whose keys and values differ in size.
        BadModelFile: its tensors are not of the sizes that it claims.
    """
    gguf, spec = gguf_of(model), model.spec
    refuse_unadmitted(gguf)
    if gguf.number(f"{gguf.architecture}.attention.value_length", spec.head_dim) != spec.head_dim:
        raise UnsupportedModel(f"{spec.name}: keys and values of different sizes cannot be sliced")
    return BlockShape(
        hidden=spec.hidden,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        feed_forward=gguf.number(f"{gguf.architecture}.feed_forward_length"),
        quantum=_quantum(gguf, _INNER_COLUMNS),
        query_quantum=_quantum(gguf, _QUERY_COLUMNS),
    )


def cut_slice(model: StoredModel, span: BlockSpan, part: BlockSlice, progress: Progress | None = None) -> Path:
    """The slice as a file of its own; fetches what it needs of the span, and cuts only what is not cached and whole.

    Raises:
        UnsupportedModel: see `block_shape`; or a tensor that no slice knows.
        BadModelFile: the slice is not within the model, or ends within a quantisation block.
        PullFailed: no connection, or no space left.
    """
    gguf, shape = gguf_of(model), block_shape(model)
    if not model.spec.whole.covers(span):
        raise BadModelFile(f"{model.spec.name} has the blocks {model.spec.whole}, not {span}")
    if part.kv_heads[1] > shape.kv_heads or part.columns[1] > shape.feed_forward:
        raise BadModelFile(f"{model.spec.name} has {shape.kv_heads} KV heads and {shape.feed_forward} columns")
    cuts = [_cut(tensor, shape, part) for tensor in gguf.block_tensors(span)]

    def write(path: Path, written: Callable[[int], None]) -> str:
        shared = shared_tensors(gguf)
        gguf.fetch(shared, progress)
        gguf.weights.ensure([cut.needed for cut in cuts], progress)
        tensors = [
            *placeholders(gguf),
            *(copied(gguf, tensor, tensor.name) for tensor in shared),
            *(cut.written(gguf, _name(gguf, cut.tensor, span)) for cut in cuts),
        ]
        return write_gguf(path, _metadata(gguf, span, shape, part), tensors, written)

    size = sum(cut.nbytes for cut in cuts)
    return cached(_path(model, span, part), write, f"cut a slice of {span}", size, progress)


class _Cut:
    """Rows and columns of one tensor, both as ranges; everything by default."""

    def __init__(self, tensor: GgufTensor, rows: tuple[int, int] | None, columns: tuple[int, int] | None) -> None:
        self.tensor = tensor
        self._rows = rows or (0, tensor.nbytes // tensor.row_bytes)
        self._columns = columns or (0, tensor.shape[0])
        block, size = GGML_QUANT_SIZES[tensor.ggml_type]
        if any(column % block for column in self._columns):
            raise BadModelFile(f"{tensor.name}: columns {self._columns} do not end on blocks of {block} values")
        if self._rows[1] * tensor.row_bytes > tensor.nbytes or self._columns[1] > tensor.shape[0]:
            raise BadModelFile(f"{tensor.name} of {tensor.shape} is smaller than its model claims")
        self._bytes = self._columns[0] // block * size, self._columns[1] // block * size

    @property
    def needed(self) -> tuple[int, int]:
        """(offset, length) in the file: whole rows."""
        start, end = self._rows
        return self.tensor.offset + start * self.tensor.row_bytes, (end - start) * self.tensor.row_bytes

    @property
    def nbytes(self) -> int:
        return (self._rows[1] - self._rows[0]) * (self._bytes[1] - self._bytes[0])

    def written(self, gguf: GgufFile, name: str) -> NewTensor:
        shape = (self._columns[1] - self._columns[0], self._rows[1] - self._rows[0])
        return NewTensor(name, self.tensor.ggml_type, shape[: len(self.tensor.shape)], lambda: self._read(gguf))

    def _read(self, gguf: GgufFile) -> NDArray[np.uint8]:
        """Mapped, not read: the writer copies some rows at a time."""
        return gguf.raw(self.tensor)[slice(*self._rows), slice(*self._bytes)]


def _cut(tensor: GgufTensor, shape: BlockShape, part: BlockSlice) -> _Cut:
    _blk, _number, rest = tensor.name.split(".", 2)
    heads = part.query_heads(shape)
    queries = heads[0] * shape.head_dim, heads[1] * shape.head_dim
    keys = part.kv_heads[0] * shape.head_dim, part.kv_heads[1] * shape.head_dim
    for names, rows in ((_QUERY_ROWS, queries), (_KEY_ROWS, keys), (_INNER_ROWS, part.columns)):
        if rest in names:
            return _Cut(tensor, rows, None) if len(tensor.shape) == 2 else _Cut(tensor, None, rows)
    for name, columns in ((_QUERY_COLUMNS, queries), (_INNER_COLUMNS, part.columns)):
        if rest == name:
            return _Cut(tensor, None, columns)
    if rest not in _WHOLE:
        raise UnsupportedModel(f"{tensor.name}: no slice knows this tensor, so the model cannot be served by a group")
    return _Cut(tensor, None, None)


def _metadata(gguf: GgufFile, span: BlockSpan, shape: BlockShape, part: BlockSlice) -> dict[str, bytes]:
    heads = part.query_heads(shape)
    numbers = {
        "attention.head_count": heads[1] - heads[0],
        "attention.head_count_kv": part.kv_heads[1] - part.kv_heads[0],
        "attention.key_length": shape.head_dim,  # llama.cpp would divide hidden by the slice's heads
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": gguf.number(f"{gguf.architecture}.rope.dimension_count", shape.head_dim),
        "feed_forward_length": part.columns[1] - part.columns[0],
    }
    own = {f"{gguf.architecture}.{key}": encode_number(value) for key, value in numbers.items()}
    metadata = {**span_metadata(gguf, span), **own}
    if gguf.architecture not in _LOADED_AS:
        return metadata
    before, (after, _names) = f"{gguf.architecture}.", _LOADED_AS[gguf.architecture]
    renamed = {
        f"{after}.{key.removeprefix(before)}": value for key, value in metadata.items() if key.startswith(before)
    }
    kept = {key: value for key, value in metadata.items() if not key.startswith(before)}
    return {**kept, **renamed, "general.architecture": encode_text(after)}


def _name(gguf: GgufFile, tensor: GgufTensor, span: BlockSpan) -> str:
    prefix, _dot, rest = renumbered(tensor.name, span).partition(".")[2].partition(".")
    _architecture, names = _LOADED_AS.get(gguf.architecture, ("", {}))
    return f"blk.{prefix}.{names.get(rest, rest)}"


def _quantum(gguf: GgufFile, name: str) -> int:
    """Of the coarsest type that any block's tensor of that name has."""
    types: Sequence[GGMLQuantizationType] = [
        tensor.ggml_type for tensor in gguf.tensors.values() if tensor.name.endswith(f".{name}")
    ]
    if not types:
        raise BadModelFile(f"{gguf.weights.path}: no block has {name}")
    return max(GGML_QUANT_SIZES[one][0] for one in types)


def _path(model: StoredModel, span: BlockSpan, part: BlockSlice) -> Path:
    (first, last), (start, end) = part.kv_heads, part.columns
    return model.span_cache / f"slice-{span.start}-{span.end}-h{first}-{last}-c{start}-{end}.v{LAYOUT}.gguf"
