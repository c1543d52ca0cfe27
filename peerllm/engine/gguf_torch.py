"""GGUF files for the torch engine: tensors dequantised and renamed, metadata turned into a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from peerllm.engine.admitted import TORCH_ARCHITECTURES
from peerllm.engine.torch_families import DECODER_NAMES, Family, config_of, family_of
from peerllm.engine.torch_weights import Part
from peerllm.errors import BadModelFile, UnsupportedModel
from peerllm.model.gguf import GgufFile
from peerllm.model.gguf_header import GgufTensor
from peerllm.model.spec import WeightFormat
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.progress import Progress

_BLOCK_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_END_TENSORS = {
    DECODER_NAMES.base + DECODER_NAMES.embedding: "token_embd.weight",
    f"{DECODER_NAMES.base}{DECODER_NAMES.norm}weight": "output_norm.weight",
    DECODER_NAMES.head: "output.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"


class GgufWeights:
    """`TorchWeights` out of a GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        """Read the metadata; raises `UnsupportedModel` for what the torch engine would compute wrongly."""
        admitted = TORCH_ARCHITECTURES[WeightFormat.GGUF]
        if file.architecture not in admitted:
            raise UnsupportedModel(
                f"the torch engine reads GGUF files of {', '.join(admitted)}, not of {file.architecture}"
            )
        self._file = file
        self._config = config_of(config_values(file))
        self._family = family_of(file.architecture)

    @property
    def config(self) -> PretrainedConfig:
        return self._config

    @property
    def family(self) -> Family:
        return self._family

    def ensure(self, span: BlockSpan, progress: Progress | None = None, part: Part | None = None) -> None:
        """All of the blocks: a part is only taken of what has been dequantised."""
        shared = [self._file.tensors[_ROPE_FACTORS]] if _ROPE_FACTORS in self._file.tensors else []
        self._file.fetch([*self._file.block_tensors(span), *shared], progress)

    def block(self, number: int, part: Part | None = None) -> Iterator[tuple[str, Tensor]]:
        for stored in self._file.block_tensors(BlockSpan(number, number + 1)):
            layer, _, kind = stored.name.removeprefix(f"blk.{number}.").rpartition(".")
            if layer not in _BLOCK_LAYERS:
                raise UnsupportedModel(f"{stored.name}: the torch engine does not know this tensor")
            name, values = f"{_BLOCK_LAYERS[layer]}.{kind}", self._in_order(layer, self._values(stored))
            cut = part(name) if part is not None else None
            yield name, values if cut is None else values.narrow(cut.axis, cut.start, cut.end - cut.start).clone()

    def ends(self, names: Sequence[str], progress: Progress | None = None) -> dict[str, Tensor]:
        found = {
            name: self._file.tensors[_END_TENSORS[name]]
            for name in names
            if _END_TENSORS.get(name) in self._file.tensors
        }
        self._file.fetch(found.values(), progress)
        return {name: self._values(stored) for name, stored in found.items()}

    def rope_factors(self) -> Tensor | None:
        stored = self._file.tensors.get(_ROPE_FACTORS)
        return None if stored is None else self._values(stored)

    def _values(self, stored: GgufTensor) -> Tensor:
        return torch.from_numpy(self._file.values(stored))

    def _in_order(self, layer: str, values: Tensor) -> Tensor:
        """Undo llama.cpp's reordering of query and key rows, which only its `llama` architecture has."""
        if self._file.architecture != "llama" or layer not in ("attn_q", "attn_k"):
            return values
        config: Any = self._config
        heads = config.num_attention_heads if layer == "attn_q" else config.num_key_value_heads
        if len(values) % (2 * heads):
            raise BadModelFile(f"{layer} has {len(values)} rows for {heads} heads")
        # Stored per head as pairs (i, i + half); transformers wants the first halves, then the second ones.
        return values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def config_values(file: GgufFile) -> dict[str, Any]:
    """What a ``config.json`` would say of the model."""
    architecture = file.architecture
    heads = file.number(f"{architecture}.attention.head_count")
    hidden = file.number(f"{architecture}.embedding_length")
    if heads < 1 or hidden < 1:
        raise BadModelFile(f"{file.weights.path}: {heads} heads, {hidden} hidden values")
    head_dim = file.number(f"{architecture}.attention.key_length", hidden // heads)
    _require_plain(file, head_dim)
    return {
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": file.number(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": file.number(f"{architecture}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.number(f"{architecture}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.number(f"{architecture}.context_length"),
        "vocab_size": file.tensor("token_embd.weight").shape[-1],
        "rms_norm_eps": _real(file, f"{architecture}.attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(file),
        "attention_bias": architecture == "llama" and "blk.0.attn_q.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _require_plain(file: GgufFile, head_dim: int) -> None:
    """Refuse what llama.cpp computes under these architectures and the transformers classes do not."""
    architecture = file.architecture
    if file.number(f"{architecture}.expert_count", 0):
        raise UnsupportedModel(f"{file.weights.path}: experts are not served by the torch engine; take llama")
    for key in ("rope.dimension_count", "attention.value_length"):
        if file.number(f"{architecture}.{key}", head_dim) != head_dim:
            raise UnsupportedModel(f"{file.weights.path}: {key} differs from the head size {head_dim}; take llama")


def _rope(file: GgufFile) -> dict[str, Any]:
    architecture = file.architecture
    theta = _real(file, f"{architecture}.rope.freq_base", 10_000.0)
    kind = file.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        factor = _real(file, f"{architecture}.rope.scaling.factor")
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    raise UnsupportedModel(f"{file.weights.path}: the torch engine has no {kind} rotary scaling of GGUF; take llama")


def _real(file: GgufFile, key: str, default: float | None = None) -> float:
    value = file.metadata.get(key, default)
    if not isinstance(value, (int, float)):
        raise BadModelFile(f"{file.weights.path}: {key} is {value!r}, not a number")
    return float(value)
