"""A session that begins with a copy of another one's keys and values computes what it would have computed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest

from peerllm.engine.load import load_ends, load_span
from peerllm.engine.span_engine import Ends, Hidden, Rows, SpanEngine
from peerllm.errors import EngineError
from peerllm.model.store import ModelStore, StoredModel
from peerllm_swarm.span import BlockSpan
from tests.support.gguf_models import TINY_SHAPES, tiny_gguf

SPAN = BlockSpan(0, 6)
TEXTS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    [shape] = [shape for shape in TINY_SHAPES if shape.architecture == "qwen2" and shape.quantisation == "q4_0"]
    return ModelStore(folder / "store").open(str(tiny_gguf(folder, shape)))


@pytest.fixture(scope="module")
def ends(model: StoredModel) -> Ends:
    return load_ends(model, engine="llama", threads=1)


def loaded(model: StoredModel, engine: str, slots: int, context_tokens: int) -> SpanEngine:
    return load_span(
        model,
        SPAN,
        engine=engine,
        dtype=None if engine == "llama" else "float32",
        device="auto" if engine == "llama" else "cpu",
        slots=slots,
        context_tokens=context_tokens,
        threads=1,
    )


def family(rng: Random, longest: int) -> list[list[int]]:
    """Texts of which each begins as an earlier one does."""
    texts = [[rng.randrange(384) for _ in range(longest)]]
    while len(texts) < TEXTS:
        parent = rng.choice(texts)
        texts.append([*parent[: rng.randrange(1, longest)], *(rng.randrange(384) for _ in range(longest))][:longest])
    return texts


def common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def alone(engine: SpanEngine, ends: Ends, text: Sequence[int]) -> Hidden:
    slot = engine.open()
    [hidden] = engine.step([Rows(slot, 0, ends.embed(text), SPAN.start, SPAN.end)])
    engine.close(slot)
    return hidden


@dataclass
class Running:
    slot: int
    text: int
    position: int = 0


def exactly(got: Hidden, expected: Hidden) -> None:
    np.testing.assert_array_equal(got, expected)


def nearly(got: Hidden, expected: Hidden) -> None:
    np.testing.assert_allclose(got, expected, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("engine_name", "same", "slots", "context_tokens", "turns"),
    [
        ("llama", exactly, 4, 48, 250),
        ("llama", exactly, 8, 256, 100),
        ("llama", exactly, 12, 24, 250),
        ("torch", nearly, 4, 48, 80),
    ],
)
def test_numbers_are_the_same_behind_a_copy(
    engine_name: str,
    same: Callable[[Hidden, Hidden], None],
    slots: int,
    context_tokens: int,
    turns: int,
    model: StoredModel,
    ends: Ends,
) -> None:
    """Sessions begin anew or as a copy, go back and end at random, in a cache that is full now and then."""
    rng, forks = Random(slots), 0
    engine = loaded(model, engine_name, slots, context_tokens)
    written = family(rng, context_tokens)
    expected = [alone(engine, ends, text) for text in written]
    running: list[Running] = []
    for _ in range(turns):
        if len(running) < slots and rng.random() < 0.6:
            new = Running(engine.open(), rng.randrange(TEXTS))
            source = rng.choice(running) if running else new
            reach = min(source.position, common(written[source.text], written[new.text]))
            if reach:
                new.position = rng.randrange(1, reach + 1)
                engine.fork(source.slot, new.position, new.slot)
                forks += 1
            running.append(new)
        for session in [one for one in running if rng.random() < 0.15 and one.position]:
            session.position = rng.randrange(session.position)
            engine.rewind(session.slot, session.position)
        for session in [one for one in running if one.position == context_tokens or rng.random() < 0.05]:
            engine.close(session.slot)
            running.remove(session)
        going = [one for one in running if rng.random() < 0.7]
        pieces = [written[one.text][one.position : one.position + rng.choice((1, 1, 1, 7, 60))] for one in going]
        batch = [
            Rows(one.slot, one.position, ends.embed(piece), SPAN.start, SPAN.end)
            for one, piece in zip(going, pieces, strict=True)
        ]
        for one, piece, hidden in zip(going, pieces, engine.step(batch) if batch else [], strict=True):
            same(hidden, expected[one.text][one.position : one.position + len(piece)])
            one.position += len(piece)
    assert forks > turns / 10
    engine.shutdown()


@pytest.mark.parametrize("engine_name", ["llama", "torch"])
def test_only_what_is_held_can_be_copied(engine_name: str, model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    engine = loaded(model, engine_name, 3, 32)
    source, other, taken = engine.open(), engine.open(), engine.open()
    rows = ends.embed([3, 4, 5])
    engine.step([Rows(source, 0, rows, SPAN.start, SPAN.end), Rows(taken, 0, rows, SPAN.start, SPAN.end)])
    for wrong in ((source, 4, other), (source, 0, other), (source, 2, taken), (source, 2, source), (other, 1, taken)):
        with pytest.raises(EngineError):
            engine.fork(*wrong)
    engine.fork(source, 2, other)
    [expected] = engine.step([Rows(other, 2, rows[2:], SPAN.start, SPAN.end)])
    assert np.isfinite(expected).all()
    engine.shutdown()
