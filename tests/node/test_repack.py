"""Q4_1 weights that are loaded as Q4_0: near the same numbers, under a fingerprint that never meets the others'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType

from peerllm.config import Config, EngineConfig
from peerllm.engine.load import choose_engine, load_ends, load_slice, load_span
from peerllm.engine.span_engine import fingerprint
from peerllm.errors import EngineUnavailable
from peerllm.generation.asked_model import ways_of
from peerllm.model.repack import as_q4_0
from peerllm.model.slice_gguf import block_shape
from peerllm.model.span_gguf import cut_span
from peerllm.model.store import ModelStore, StoredModel
from peerllm.serving.offer import work_out_offer
from peerllm_swarm.slices import slices_for
from tests.support.chains import Chain
from tests.support.gguf_models import TINY, tiny_gguf

TEXT = [5, 9, 77, 23, 1, 44, 60, 3, 3, 90, 12]
REPACKING = Config(engine=EngineConfig(repack="q4_0"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    path = tiny_gguf(folder, replace(TINY, quantisation="q4_1"))
    return ModelStore(folder / "store").open(str(path))


def test_values_stay_nearer_than_in_the_usual_way() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 64), dtype=np.float32)
    stored = quants.quantize(rows, GGMLQuantizationType.Q4_1)
    exact = quants.dequantize(stored, GGMLQuantizationType.Q4_1)
    found = as_q4_0(stored.reshape(-1))
    near = quants.dequantize(found.reshape(-1, 18), GGMLQuantizationType.Q4_0).reshape(exact.shape)
    plain = quants.dequantize(quants.quantize(exact, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
    assert np.square(near - exact).sum() < np.square(plain - exact).sum()


def test_a_repacked_span_is_a_file_of_its_own_and_computes_nearly_the_same(model: StoredModel) -> None:
    span = model.spec.whole
    stored, repacked = (
        load_span(model, span, engine="llama", dtype=dtype, slots=1, context_tokens=32, threads=1)
        for dtype in (None, "q4_0")
    )
    paths = [cut_span(model, span, dtype=dtype) for dtype in (None, "q4_0")]
    assert paths[0] != paths[1]
    assert paths[1].stat().st_size < paths[0].stat().st_size
    assert (stored.info.dtype.lower(), repacked.info.dtype) == ("q4_1", "q4_0")
    ends = load_ends(model, engine="llama", dtype="q4_0", threads=1)
    exact, near = (Chain(ends, [engine]).step(TEXT) for engine in (stored, repacked))
    assert not np.array_equal(exact, near)
    assert np.linalg.norm(exact - near) < 0.5 * np.linalg.norm(exact)
    for part in (stored, repacked, ends):
        part.shutdown()


def test_repacked_peers_have_a_fingerprint_of_their_own(model: StoredModel) -> None:
    offers = [work_out_offer(model.spec, config, threads=1) for config in (Config(), REPACKING)]
    assert [offer.dtype for offer in offers] == ["q4_1", "q4_0"]
    assert offers[0].fingerprint != offers[1].fingerprint
    assert {offer.fingerprint for offer in offers} <= ways_of(model.spec).keys()
    q4_0 = replace(model.spec, quantisation="q4_0")
    assert work_out_offer(q4_0, REPACKING, threads=1).fingerprint == fingerprint(q4_0, "llama", "q4_0")
    assert list(ways_of(q4_0).values()).count(("llama", "q4_0")) == 1


def test_only_what_gains_is_repacked(tmp_path: Path) -> None:
    q8 = ModelStore(tmp_path / "store").open(str(tiny_gguf(tmp_path, replace(TINY, quantisation="q8_0"))))
    assert work_out_offer(q8.spec, REPACKING, threads=1).dtype == "q8_0"
    with pytest.raises(EngineUnavailable):
        choose_engine(q8.spec, "llama", dtype="q4_0")


def test_slices_are_not_repacked(model: StoredModel) -> None:
    slices = slices_for(block_shape(model), (1.0, 1.0))
    with pytest.raises(EngineUnavailable, match="not repacked"):
        load_slice(
            model,
            model.spec.whole,
            slices,
            0,
            engine="llama",
            dtype="q4_0",
            slots=1,
            context_tokens=16,
            threads=1,
        )
