"""Slices of torch blocks that add up their parts compute what the whole model does."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peerllm.engine.group_span import GroupSpan, follow
from peerllm.engine.load import load_ends, load_slice, load_span, torch_weights
from peerllm.engine.span_engine import Ends, Hidden, Rows
from peerllm.engine.torch_slice import TorchSlice, block_shape, part_of
from peerllm.errors import EngineUnavailable, GroupBroken, UnsupportedModel
from peerllm.model.store import ModelStore, StoredModel
from peerllm_swarm.errors import CannotSlice
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.slices import slices_for
from tests.support.chains import Chain
from tests.support.checkpoints import BLOCKS, stored_checkpoint, whole_model, whole_run
from tests.support.gguf_models import TINY, tiny_gguf
from tests.support.groups import exchanges

SLICED = ["llama", "llama-tied-biased", "mistral-window", "qwen2", "qwen3", "gemma"]
PROMPT = [5, 9, 77, 23, 1, 44, 60, 3, 3, 90, 12]
NEW_TOKENS = 16
TOLERANCE = 1e-5
"""Of the largest value: sums come together in another order."""


@contextmanager
def grouped(model: StoredModel, weights: Sequence[float]) -> Iterator[GroupSpan]:
    """The whole model in a group whose members run on threads of their own; the first one leads."""
    slices = slices_for(block_shape(torch_weights(model)), weights)
    spec = model.spec
    with ExitStack() as stack:
        made = stack.enter_context(exchanges(len(weights), SyncForm.FLOAT32, values=4096))
        members = [
            load_slice(
                model,
                spec.whole,
                slices,
                index,
                engine="torch",
                dtype="float32",
                device="cpu",
                slots=3,
                context_tokens=64,
                threads=1,
            )
            for index in range(len(weights))
        ]
        loops = [
            threading.Thread(target=follow, args=(members[index], made[index], spec.hidden))
            for index in range(1, len(weights))
        ]
        for loop in loops:
            loop.start()
        lead = GroupSpan.assemble(members[0], made[0], spec.hidden)
        try:
            yield lead
        finally:
            lead.shutdown()
            for loop in loops:
                loop.join(20)
            for member in members[1:]:
                member.shutdown()


@functools.cache
def ends(sample: str) -> Ends:
    return load_ends(stored_checkpoint(sample), engine="torch", dtype="float32", threads=1)


@pytest.mark.parametrize("sample", SLICED)
def test_two_members_answer_as_the_whole_model(sample: str) -> None:
    expected = whole_run(sample, tuple(PROMPT)).hidden[-1]
    with torch.inference_mode():
        model: Any = whole_model(sample)
        answer = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW_TOKENS, do_sample=False)
    with grouped(stored_checkpoint(sample), (1.0, 1.0)) as group:
        chain = Chain(ends(sample), [group])
        assert_close(chain.step(PROMPT), expected)
        chain.rewind(0)
        assert chain.greedy(PROMPT, NEW_TOKENS) == answer[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_three_uneven_members_of_a_gguf_answer_as_one_engine(architecture: str, tmp_path: Path) -> None:
    shape = replace(TINY, architecture=architecture, hidden=96, heads=12, kv_heads=6, quantisation="q8_0")
    model = ModelStore(tmp_path / "store").open(str(tiny_gguf(tmp_path, shape)))
    span = model.spec.whole
    single = load_span(
        model, span, engine="torch", dtype="float32", device="cpu", slots=3, context_tokens=64, threads=1
    )
    embedding = load_ends(model, engine="torch", dtype="float32", threads=1)
    with grouped(model, (3.0, 1.0, 1.5)) as group:
        chains = [Chain(embedding, [engine]) for engine in (group, single)]
        assert chains[0].greedy(PROMPT, NEW_TOKENS) == chains[1].greedy(PROMPT, NEW_TOKENS)
        for chain in chains:
            chain.rewind(7)
        found, expected = (chain.step([4, 8, 15]) for chain in chains)
        assert_close(found, expected)
    single.shutdown()


def test_sessions_of_a_group_are_copied_and_batched_on_all_members() -> None:
    model = stored_checkpoint("qwen2")
    rows = np.random.default_rng(3).standard_normal((12, model.spec.hidden), dtype=np.float32)
    with grouped(model, (1.0, 1.0)) as group:
        first, second = group.open(), group.open()
        [expected] = group.step([Rows(first, 0, rows, 0, BLOCKS)])
        group.fork(first, 8, second)
        group.rewind(first, 10)
        both = group.step([Rows(first, 10, rows[10:11], 0, BLOCKS), Rows(second, 8, rows[8:9], 0, BLOCKS)])
        assert_close(np.concatenate(both), expected[[10, 8]])


def test_a_member_reads_its_rows_and_columns_alone() -> None:
    weights = torch_weights(stored_checkpoint("llama"))
    shape = block_shape(weights)
    parts = [dict(weights.block(1, part_of(shape, kept))) for kept in slices_for(shape, (2.0, 1.0))]
    for name, whole in weights.block(1):
        cut = part_of(shape, slices_for(shape, (2.0, 1.0))[0])(name)
        pieces = [part[name] for part in parts]
        if cut is None:
            assert all(torch.equal(piece, whole) for piece in pieces)
        else:
            assert torch.equal(torch.cat(pieces, cut.axis), whole)


def test_what_cannot_be_sliced_is_refused() -> None:
    model = stored_checkpoint("llama")
    slices = slices_for(block_shape(torch_weights(model)), (1.0, 1.0))
    lent = {"slots": 1, "context_tokens": 16, "device": "cpu"}
    weights, span = torch_weights(model), model.spec.whole
    with pytest.raises(EngineUnavailable, match="scales"):
        TorchSlice.load(weights, model.spec, span, slices, 0, dtype="int8", **lent)
    with pytest.raises(CannotSlice):
        TorchSlice.load(weights, model.spec, span, slices[:1], 0, **lent)
    for fused in ("bloom", "falcon-40b"):
        with pytest.raises(UnsupportedModel, match="fused"):
            block_shape(torch_weights(stored_checkpoint(fused)))
    alone = TorchSlice.load(weights, model.spec, span, slices, 0, **lent)
    with pytest.raises(GroupBroken):
        alone.step([Rows(alone.open(), 0, np.zeros((1, model.spec.hidden), np.float32), 0, BLOCKS)])


def assert_close(found: Hidden, expected: Hidden) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
