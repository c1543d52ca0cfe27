"""Cutting a slice of a span: which rows and columns, which bytes are fetched, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.models import Shape
from peerllm.errors import BadModelFile, UnsupportedModel
from peerllm.model.gguf import GgufFile
from peerllm.model.gguf_writer import NewTensor, write_gguf
from peerllm.model.slice_gguf import block_shape, cut_slice
from peerllm.model.store import ModelStore, StoredModel
from peerllm.model.weights_file import Progress, ProgressEvent, WeightsFile
from peerllm_swarm.errors import CannotSlice
from peerllm_swarm.slices import BlockSlice, slices_for
from peerllm_swarm.span import BlockSpan
from tests.support.gguf_models import TINY, tiny_gguf

SPAN = BlockSpan(2, 5)
SHAPES = (
    replace(TINY, quantisation="q4_0"),
    replace(TINY, quantisation="f32", rope_factors=True),
    replace(TINY, architecture="qwen2", quantisation="q8_0"),
    replace(TINY, architecture="qwen3", quantisation="f16", head_dim=32),
    replace(TINY, quantisation="q4_k", hidden=256, heads=8, kv_heads=4, head_dim=128, feed_forward=768),
    replace(TINY, heads=9, kv_heads=3, hidden=96, head_dim=32, feed_forward=160),  # what divides by nothing
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_slices_together_are_the_span_byte_for_byte(shape: Shape, tmp_path: Path) -> None:
    model = opened(tmp_path, shape)
    slices = slices_for(block_shape(model), (2, 1))
    files = [parsed(cut_slice(model, SPAN, part)) for part in slices]
    source = gguf_of(model)
    for tensor in source.block_tensors(SPAN):
        _blk, number, rest = tensor.name.split(".", 2)
        renamed = {"ffn_norm.weight": "post_attention_norm.weight"} if shape.architecture == "qwen2" else {}
        name = f"blk.{int(number) - SPAN.start}.{renamed.get(rest, rest)}"
        pieces = [file.raw(file.tensor(name)) for file in files]
        whole = source.raw(tensor)
        if rest in ("attn_output.weight", "ffn_down.weight"):
            found = np.concatenate(pieces, axis=1)
        elif "norm" in rest:
            np.testing.assert_array_equal(pieces[0], pieces[1])
            found = pieces[0]
        else:
            found = np.concatenate(pieces, axis=0 if len(tensor.shape) == 2 else 1)
        np.testing.assert_array_equal(found, whole)


def test_slice_says_its_own_sizes(tmp_path: Path) -> None:
    model = opened(tmp_path, replace(TINY, heads=9, kv_heads=3, hidden=96, head_dim=32, feed_forward=160))
    file = parsed(cut_slice(model, SPAN, BlockSlice((0, 2), (0, 96))))
    numbers = {
        "block_count": 3,
        "embedding_length": 96,
        "feed_forward_length": 96,
        "attention.head_count": 6,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 32,
    }
    assert {key: file.number(f"llama.{key}") for key in numbers} == numbers


def test_only_rows_of_the_slice_are_asked_for_and_both_products_whole(tmp_path: Path) -> None:
    model = opened(tmp_path, TINY)
    weights = RecordingWeights(tiny_gguf(tmp_path, TINY))
    source = GgufFile(weights, gguf_of(model).header)
    cut_slice(replace(model, gguf=source), SPAN, BlockSlice((0, 1), (0, 64)))
    expected = 0
    for tensor in source.block_tensors(SPAN):
        halved = "norm" not in tensor.name and "attn_output" not in tensor.name and "ffn_down" not in tensor.name
        expected += tensor.nbytes // 2 if halved else tensor.nbytes
    assert sum(length for _offset, length in weights.asked) == expected


def test_second_cut_reads_and_writes_nothing_and_shows_the_first(tmp_path: Path) -> None:
    model, seen = opened(tmp_path, TINY), list[ProgressEvent]()
    part = BlockSlice((0, 1), (0, 64))
    path = cut_slice(model, SPAN, part, seen.append)
    assert any("slice" in event.what for event in seen)
    before = path.stat()
    weights = RecordingWeights(tiny_gguf(tmp_path, TINY))
    assert cut_slice(replace(model, gguf=GgufFile(weights, gguf_of(model).header)), SPAN, part) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not weights.asked


def test_damaged_slice_is_cut_again(tmp_path: Path) -> None:
    model, part = opened(tmp_path, TINY), BlockSlice((1, 2), (64, 128))
    path = cut_slice(model, SPAN, part)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert cut_slice(model, SPAN, part).read_bytes() == whole


@pytest.mark.parametrize(
    "part", [BlockSlice((0, 1), (0, 48)), BlockSlice((0, 3), (0, 64)), BlockSlice((0, 1), (0, 160))]
)
def test_slice_that_the_model_does_not_have_is_refused(part: BlockSlice, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile):
        cut_slice(opened(tmp_path, TINY), SPAN, part)


def test_heads_that_do_not_end_on_a_quantisation_block_stay_together(tmp_path: Path) -> None:
    model = opened(tmp_path, replace(TINY, quantisation="q4_k", hidden=256, head_dim=64, feed_forward=512))
    with pytest.raises(CannotSlice, match="2 KV heads are 1 pieces"):
        slices_for(block_shape(model), (1, 1))
    with pytest.raises(BadModelFile, match="blocks of 256"):
        cut_slice(model, SPAN, BlockSlice((0, 1), (0, 256)))


def test_tensor_that_no_slice_knows_is_refused(tmp_path: Path) -> None:
    source = gguf_of(opened(tmp_path, TINY))
    tensors = [NewTensor(t.name, t.ggml_type, t.shape, lambda t=t: source.raw(t)) for t in source.tensors.values()]
    tensors.append(NewTensor.float32("blk.3.attn_sinks.weight", np.zeros(4, np.float32)))
    path = tmp_path / "strange.gguf"
    write_gguf(path, {key: source.metadata.encoded(key) for key in source.metadata}, tensors)
    model = ModelStore(tmp_path / "store", offline=True).open(str(path))
    with pytest.raises(UnsupportedModel, match="attn_sinks"):
        cut_slice(model, SPAN, BlockSlice((0, 1), (0, 64)))


class RecordingWeights(WeightsFile):
    """A local file that notes what it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.stat().st_size, "", ours=False)
        self.asked: list[tuple[int, int]] = []

    def ensure(self, ranges: Sequence[tuple[int, int]], progress: Progress | None = None) -> int:
        self.asked += ranges
        return super().ensure(ranges, progress)


def opened(directory: Path, shape: Shape) -> StoredModel:
    return ModelStore(directory / "store", offline=True).open(str(tiny_gguf(directory, shape)))


def parsed(path: Path) -> GgufFile:
    return GgufFile.open(WeightsFile.local(path, ""))


def gguf_of(model: StoredModel) -> GgufFile:
    assert model.gguf is not None
    return model.gguf
