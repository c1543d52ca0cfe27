"""Cut a span, or the two ends, of a model out of its GGUF into a file that llama.cpp loads by itself.

A span file holds the span's blocks renumbered from 0, byte for byte. An ends file holds final norm and head behind one
block that adds nothing, because llama.cpp loads no model without blocks. Both are cached beside the model, each with
its digest, which every process checks before it uses the file first.
That hidden states are then those of the whole model, bit for bit, is shown in tests/node/test_llama_span.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peerllm.errors import BadModelFile, UnsupportedModel
from peerllm.model.cut_files import cached, discard
from peerllm.model.gguf import GgufFile, block_of
from peerllm.model.gguf_header import GgufTensor
from peerllm.model.gguf_writer import NewTensor, encode_float, encode_number, encode_text, write_gguf
from peerllm.model.repack import repacked
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.progress import Progress
    from peerllm.model.store import StoredModel

ADMITTED = ("llama", "qwen2", "qwen3")
"""Architectures whose spans were shown to compute the whole model's numbers, in tests/node/test_llama_span.py."""

LAYOUT = 1
"""Raised when the same span would be cut to other bytes: old files are then cut again."""

_EMBEDDING, _NORM, _HEAD = "token_embd.weight", "output_norm.weight", "output.weight"
_SHARED = frozenset({"rope_freqs.weight"})  # global tensors that every block reads
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")  # llama.cpp's, src/llama-model.cpp
_SPAN_VOCABULARY = 32  # the loader demands an embedding; nothing reads it
_IDENTITY_WIDTH = 32


def refuse_unadmitted(gguf: GgufFile) -> None:
    """Raise `UnsupportedModel` unless spans of this model were proved to be exact."""
    architecture = gguf.architecture
    if architecture not in ADMITTED:
        raise UnsupportedModel(
            f"{gguf.weights.path.name}: llama.cpp spans of the architecture {architecture} are not proved exact yet; "
            f"admitted are {', '.join(ADMITTED)}; try --engine torch"
        )
    if any(gguf.number(f"{architecture}.{key}", 0) for key in ("expert_count", "expert_used_count")):
        raise UnsupportedModel(f"{gguf.weights.path.name}: {architecture} with experts is not admitted")
    _refuse_absurd_numbers(gguf)
    known = {_EMBEDDING, _NORM, _HEAD} | _SHARED
    strange = [name for name in gguf.tensors if block_of(name) is None and name not in known]
    if strange:
        raise UnsupportedModel(f"{gguf.weights.path.name}: tensors outside of blocks that no span knows: {strange[:4]}")


def _refuse_absurd_numbers(gguf: GgufFile) -> None:
    """llama.cpp ends the whole process where a model's numbers make no sense to it."""
    prefix = f"{gguf.architecture}."
    for key, value in gguf.metadata.items():
        if key.startswith(prefix) and isinstance(value, float) and not 0 <= value < math.inf:
            raise BadModelFile(f"{gguf.weights.path}: {key} is {value}")
    scaling = gguf.metadata.get(f"{prefix}rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise UnsupportedModel(f"{gguf.weights.path}: rotary scaling {str(scaling)[:40]!r} is not known")


def cut_span(
    model: StoredModel, span: BlockSpan, progress: Progress | None = None, *, dtype: str | None = None
) -> Path:
    """The span as a file of its own; fetches just its tensors, and cuts only what is not cached and whole.

    Another `dtype` than the stored one has the blocks repacked to it (`repack`).

    Raises:
        UnsupportedModel: an architecture that is not admitted.
        PullFailed: no connection, or no space left.
    """
    gguf = gguf_of(model)
    refuse_unadmitted(gguf)
    if not model.spec.whole.covers(span):
        raise BadModelFile(f"{model.spec.name} has the blocks {model.spec.whole}, not {span}")

    def write(path: Path, written: Callable[[int], None]) -> str:
        blocks = gguf.block_tensors(span)
        shared = shared_tensors(gguf)
        gguf.fetch([*shared, *blocks], progress)
        tensors = [
            *placeholders(gguf),
            *(copied(gguf, tensor, tensor.name) for tensor in shared),
            *(written_as(gguf, tensor, renumbered(tensor.name, span)) for tensor in blocks),
        ]
        return write_gguf(path, span_metadata(gguf, span), tensors, written)

    written_as = repacked if _is_repacked(model, dtype) else copied
    return cached(_span_path(model, span, dtype), write, f"cut {span}", model.spec.span_bytes(span), progress)


def discard_cut(model: StoredModel, span: BlockSpan) -> None:
    """Have the span cut anew when it is needed next, in every form; who has a file open keeps reading."""
    for dtype in (None, model.spec.repacked_dtype):
        discard(_span_path(model, span, dtype))


def cut_ends(model: StoredModel, progress: Progress | None = None) -> Path:
    """Final norm and head as a file of their own; fetches just them and the embedding."""
    gguf = gguf_of(model)
    refuse_unadmitted(gguf)

    def write(path: Path, written: Callable[[int], None]) -> str:
        gguf.fetch(ends_tensors(gguf), progress)
        return write_gguf(path, _ends_metadata(gguf), _ends_tensors(gguf), written)

    return cached(model.span_cache / f"ends.v{LAYOUT}.gguf", write, "cut head", _head(gguf).nbytes, progress)


def ends_tensors(gguf: GgufFile) -> list[GgufTensor]:
    """Embedding, final norm and head; the embedding is the head where the model ties them."""
    return [gguf.tensors[name] for name in (_EMBEDDING, _NORM, _HEAD) if name in gguf.tensors]


def _span_path(model: StoredModel, span: BlockSpan, dtype: str | None = None) -> Path:
    form = f".{dtype}" if _is_repacked(model, dtype) else ""
    return model.span_cache / f"span-{span.start}-{span.end}{form}.v{LAYOUT}.gguf"


def _is_repacked(model: StoredModel, dtype: str | None) -> bool:
    return dtype is not None and dtype == model.spec.repacked_dtype


def gguf_of(model: StoredModel) -> GgufFile:
    """The model's file; raises `UnsupportedModel` if it has none."""
    if model.gguf is None:
        raise UnsupportedModel(f"{model.spec.name} is no GGUF file; llama.cpp cannot serve it, try --engine torch")
    return model.gguf


def span_metadata(gguf: GgufFile, span: BlockSpan) -> dict[str, bytes]:
    """The model's hyperparameters with so many blocks, and no vocabulary."""
    architecture = gguf.architecture
    kept = _kept(gguf)
    kept[f"{architecture}.block_count"] = encode_number(len(span))
    kept[f"{architecture}.vocab_size"] = encode_number(_SPAN_VOCABULARY)
    kept["tokenizer.ggml.model"] = encode_text("no_vocab")
    return kept


def _kept(gguf: GgufFile) -> dict[str, bytes]:
    """The model's own hyperparameters, bit for bit, without tokenizer and descriptions."""
    prefix = f"{gguf.architecture}."
    kept = {"general.architecture": encode_text(gguf.architecture)}
    for key, value in gguf.metadata.items():
        if not key.startswith(prefix):
            continue
        if isinstance(value, list):
            raise UnsupportedModel(f"{gguf.weights.path.name}: {key} holds one value per block, which is not admitted")
        kept[key] = gguf.metadata.encoded(key)
    return kept


def placeholders(gguf: GgufFile) -> list[NewTensor]:
    """The ends that llama.cpp's loader demands of a span; nothing reads them."""
    hidden = gguf.number(f"{gguf.architecture}.embedding_length")
    return [
        NewTensor.float32(_EMBEDDING, np.zeros((_SPAN_VOCABULARY, hidden), np.float32)),
        NewTensor.float32(_NORM, np.ones(hidden, np.float32)),
    ]


def shared_tensors(gguf: GgufFile) -> list[GgufTensor]:
    """The global tensors that every block reads."""
    return [tensor for tensor in gguf.tensors.values() if tensor.name in _SHARED]


def copied(gguf: GgufFile, tensor: GgufTensor, name: str) -> NewTensor:
    """The whole tensor, byte for byte."""
    return NewTensor(name, tensor.ggml_type, tensor.shape, lambda: gguf.raw(tensor))


def renumbered(name: str, span: BlockSpan) -> str:
    """A block tensor's name in a file that begins with the span."""
    _blk, number, rest = name.split(".", 2)
    return f"blk.{int(number) - span.start}.{rest}"


def _head(gguf: GgufFile) -> GgufTensor:
    return gguf.tensors.get(_HEAD) or gguf.tensor(_EMBEDDING)


def _ends_metadata(gguf: GgufFile) -> dict[str, bytes]:
    """A one-block model of the plainest architecture: all admitted ones end in the same norm and head."""
    epsilon = gguf.metadata.get(f"{gguf.architecture}.attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, float):
        raise BadModelFile(f"{gguf.weights.path}: layer_norm_rms_epsilon is {epsilon!r}, not a number")
    numbers = {
        "context_length": 512,
        "block_count": 1,
        "embedding_length": gguf.number(f"{gguf.architecture}.embedding_length"),
        "feed_forward_length": _IDENTITY_WIDTH,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "attention.key_length": _IDENTITY_WIDTH,
        "attention.value_length": _IDENTITY_WIDTH,
        "rope.dimension_count": _IDENTITY_WIDTH,
        "vocab_size": _head(gguf).shape[-1],
    }
    return {
        "general.architecture": encode_text("llama"),
        **{f"llama.{key}": encode_number(value) for key, value in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": encode_float(epsilon),
        "tokenizer.ggml.model": encode_text("no_vocab"),
    }


def _ends_tensors(gguf: GgufFile) -> list[NewTensor]:
    hidden = gguf.number(f"{gguf.architecture}.embedding_length")
    inner, outer = np.zeros((_IDENTITY_WIDTH, hidden), np.float32), np.zeros((hidden, _IDENTITY_WIDTH), np.float32)
    norm = np.zeros(hidden, np.float32)
    identity: Mapping[str, np.ndarray] = {
        "attn_norm": norm,
        "attn_q": inner,
        "attn_k": inner,
        "attn_v": inner,
        "attn_output": outer,
        "ffn_norm": norm,
        "ffn_gate": inner,
        "ffn_up": inner,
        "ffn_down": outer,
    }
    return [
        # without output.weight llama.cpp takes the embedding for the head, so the head is stored just once
        copied(gguf, _head(gguf), _EMBEDDING),
        copied(gguf, gguf.tensor(_NORM), _NORM),
        *(NewTensor.float32(f"blk.0.{name}.weight", values) for name, values in identity.items()),
    ]
