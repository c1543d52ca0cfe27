"""A small whole model that drafts: its tokens are its own greedy ones, wherever it is asked to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from peerllm.errors import UnsupportedModel
from peerllm.generation.answer_request import AnswerRequest, TextPrompt
from peerllm.generation.drafting.draft_model import READ_AT_ONCE, SLOTS, DraftModel, DraftSession
from peerllm.generation.drafting.drafts import NONE, DraftSettings, ModelDrafts, could_draft
from peerllm.generation.route_terms import RouteTerms
from peerllm.model.spec import WeightFormat
from peerllm.model.store import ModelStore, StoredModel
from peerllm.model.tokenizer import Tokenizer
from tests.support.gguf_models import TINY, WholeModel, tiny_gguf

pytest.importorskip("llama_cpp")

PROMPT = [(7 * place + 3) % 300 for place in range(20)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), offline=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def small(store: ModelStore, path: Path) -> StoredModel:
    return store.open(str(path))


@asynccontextmanager
async def loaded(small: StoredModel) -> AsyncIterator[DraftModel]:
    model = DraftModel.load(small, Tokenizer.of(small), threads=1)
    try:
        yield model
    finally:
        await model.shutdown()


def greedy(path: Path, tokens: Sequence[int], count: int) -> list[int]:
    whole = WholeModel(path)
    try:
        return whole.greedy(tokens, count)
    finally:
        whole.close()


async def guessed(session: DraftSession, tokens: Sequence[int], at_most: int) -> list[int]:
    guesses = await session.propose(tokens, at_most)
    assert all(0 < guess.probability <= 1 for guess in guesses)
    return [guess.token for guess in guesses]


def test_guesses_are_the_models_own_tokens_however_the_text_changed_before(small: StoredModel, path: Path) -> None:
    async def main() -> None:
        async with loaded(small) as model:
            session = model.session()
            for tokens in (PROMPT, [*PROMPT, 5, 6, 7], [*PROMPT, 5, 9], PROMPT[:-3], PROMPT[:-3], [9, 9, *PROMPT]):
                guesses = await guessed(session, tokens, 4)
                assert guesses == greedy(path, tokens, 4)[: len(guesses)] != []
            assert session.token_ms > 0
            await session.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_long_text_is_read_while_the_answer_goes_on(small: StoredModel, path: Path) -> None:
    text = [(11 * place + 5) % 300 for place in range(READ_AT_ONCE * 3)]

    async def main() -> None:
        async with loaded(small) as model:
            session = model.session()
            tokens = list(text)
            while not (guesses := await guessed(session, tokens, 2)):
                tokens.append(len(tokens) % 300)
                await asyncio.sleep(0.001)
            assert guesses == greedy(path, tokens, 2)[: len(guesses)]
            assert not await guessed(session, [*text, *range(400)], 2)  # longer than it can hold
            await session.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_answers_beyond_its_slots_go_without(small: StoredModel) -> None:
    async def main() -> None:
        async with loaded(small) as model:
            sessions = [model.session() for _ in range(SLOTS + 1)]
            helped = [bool(await session.propose(PROMPT, 1)) for session in sessions]
            assert helped == [True] * SLOTS + [False]
            await sessions[0].aclose()
            assert await sessions[-1].propose(PROMPT, 1)
            for session in sessions:
                await session.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_another_vocabulary_is_refused_with_both_counts(store: ModelStore, small: StoredModel, tmp_path: Path) -> None:
    other = store.open(str(tiny_gguf(tmp_path, replace(TINY, vocabulary=320))))
    with pytest.raises(UnsupportedModel, match=r"another one \(320 tokens.*against 384.*speculation.draft_model"):
        DraftModel.load(other, Tokenizer.of(small), threads=1)


def test_only_much_smaller_files_with_as_many_tokens_are_taken_unasked(small: StoredModel) -> None:
    spec = small.spec
    large = replace(spec, block_bytes=tuple(100 * size for size in spec.block_bytes), ends_bytes=10**7)
    assert could_draft(spec, large)
    assert not could_draft(spec, spec)
    assert not could_draft(replace(spec, vocab=320), large)
    assert not could_draft(replace(spec, format=WeightFormat.SAFETENSORS), large)
    assert not could_draft(replace(spec, ends_bytes=1 << 30), replace(large, ends_bytes=1 << 40))


def test_which_answers_are_guessed_ahead(store: ModelStore, small: StoredModel) -> None:
    asked = AnswerRequest("tiny", TextPrompt("a"))
    on, off = (
        ModelDrafts(DraftSettings(enabled, NONE), store, small, Tokenizer.of(small)) for enabled in (True, False)
    )
    assert on.drafter(asked) is not None
    assert off.drafter(asked) is None
    assert on.drafter(replace(asked, terms=RouteTerms(speculation=False))) is None
    assert off.drafter(replace(asked, terms=RouteTerms(speculation=True))) is not None


def test_a_named_model_is_loaded_beside_the_first_answer(store: ModelStore, small: StoredModel, path: Path) -> None:
    async def main() -> None:
        drafts = ModelDrafts(DraftSettings(model=str(path)), store, small, Tokenizer.of(small))
        assert drafts.session() is None
        while (session := drafts.session()) is None:
            await asyncio.sleep(0.01)
        assert await session.propose(PROMPT, 2)
        await session.aclose()
        await drafts.shutdown()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_named_model_that_cannot_draft_is_told_of_once(
    store: ModelStore, small: StoredModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_gguf(tmp_path, replace(TINY, vocabulary=320))

    async def main() -> None:
        drafts = ModelDrafts(DraftSettings(model=str(other)), store, small, Tokenizer.of(small))
        drafts.session()
        await drafts.shutdown()
        assert drafts.session() is None

    asyncio.run(asyncio.wait_for(main(), 30))
    assert [record.levelname for record in caplog.records if "vocabulary is another one" in record.message] == ["ERROR"]
