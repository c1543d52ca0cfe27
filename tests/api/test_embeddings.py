"""``/v1/embeddings`` as the official client sees it."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import openai
import pytest

from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import CONTEXT_TOKENS, MODEL

TEXTS = ["A cat sits on the mat.", "A kitten lies on the rug.", "Interest rates rose by two percent."]
WIDTH = 576


def test_each_text_becomes_a_vector_of_length_one(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)

    assert [entry.index for entry in answer.data] == [0, 1, 2]
    vectors = np.array([entry.embedding for entry in answer.data])
    assert vectors.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > likeness[0, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3


def test_numbers_and_their_base64_are_the_same(client: openai.OpenAI, api: RunningApi) -> None:
    """The official client asks for base64 unless it is told otherwise."""
    as_numbers = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    decoded = client.embeddings.create(model=MODEL, input=TEXTS[0])
    body = {"model": MODEL, "input": TEXTS[0], "encoding_format": "base64"}
    raw = httpx.post(f"{api.url}/v1/embeddings", json=body, timeout=60, trust_env=False).json()

    assert decoded.data[0].embedding == as_numbers.data[0].embedding
    assert isinstance(raw["data"][0]["embedding"], str)
    numbers = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert numbers.tolist() == as_numbers.data[0].embedding


def test_tokens_are_as_good_as_texts(client: openai.OpenAI, api: RunningApi) -> None:
    assert api.node.model is not None
    tokens = [api.node.model.tokenizer.encode(text) for text in TEXTS]
    from_texts = client.embeddings.create(model=MODEL, input=TEXTS)
    from_tokens = client.embeddings.create(model=MODEL, input=tokens)
    from_one = client.embeddings.create(model=MODEL, input=tokens[1])

    assert from_tokens.usage.prompt_tokens == sum(map(len, tokens))
    for one, other in zip(from_texts.data, from_tokens.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=2e-3)
    np.testing.assert_allclose(from_one.data[0].embedding, from_texts.data[1].embedding, atol=2e-3)


def test_pooling_chooses_what_is_told(client: openai.OpenAI) -> None:
    mean, last = (
        client.embeddings.create(model=MODEL, input=TEXTS[0], extra_body={"pooling": pooling}).data[0].embedding
        for pooling in ("mean", "last")
    )
    assert not np.allclose(mean, last, atol=0.1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dimensions": 64}, "dimensions"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [10**6]}, "1000000"),
        ({"input": None}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"pooling": "max"}, "pooling"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(api: RunningApi, change: dict[str, object], named: str) -> None:
    body = {"model": MODEL, "input": "a text"} | change
    refused = httpx.post(f"{api.url}/v1/embeddings", json=body, timeout=60, trust_env=False)
    assert refused.status_code == 400, refused.text
    assert named in refused.json()["error"]["message"]


def test_a_text_that_is_too_long_is_refused_with_the_counts(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT_TOKENS)) as caught:
        client.embeddings.create(model=MODEL, input=["short", "word " * 2 * CONTEXT_TOKENS])
    assert caught.value.code == "context_length_exceeded"


def test_unknown_and_loading_models_are_told(client: openai.OpenAI, loading_api: RunningApi) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    body = {"model": MODEL, "input": "a"}
    loading = httpx.post(f"{loading_api.url}/v1/embeddings", json=body, trust_env=False)
    assert loading.status_code == 503
    assert loading.headers["retry-after"]


def test_a_deadline_that_has_passed_is_504_and_frees_everything(api: RunningApi) -> None:
    body = {"model": MODEL, "input": ["word " * 200] * 64}
    late = httpx.post(
        f"{api.url}/v1/embeddings", json=body, headers={"X-Peerllm-Deadline-S": "0.05"}, timeout=60, trust_env=False
    )
    assert late.status_code == 504, late.text
    assert late.json()["error"]["code"] == "deadline_exceeded"
    assert eventually(lambda: not api.node.answering)
