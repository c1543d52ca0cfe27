"""``/v1`` as the official client sees it."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import CONTEXT_TOKENS, MODEL

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_plain_answer_has_content_reason_and_exact_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=24)

    assert "L'Étoile" in (answer.choices[0].message.content or "")  # as llama.cpp itself answers
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 24


def test_streamed_chunks_are_the_plain_answer(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-2]] == [None] * (len(chunks) - 2)
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == plain.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_frames_are_as_documented(api: RunningApi) -> None:
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 2, "stream": True}
    response = httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)

    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith(("data: {", ": keep-alive")) for frame in frames[:-2])
    assert "usage" not in response.text


def test_same_seed_gives_same_answer(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, seed=seed, temperature=1.5, max_completion_tokens=12
        )
        .choices[0]
        .message.content
        for seed in (7, 7, 8)
    }

    assert len(answers) == 2


def test_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    plain = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = plain[5:12]

    answer = client.chat.completions.create(**asked, stop=[stop, "never said"])

    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == plain[: plain.index(stop)]


def test_text_parts_are_as_good_as_a_text(client: openai.OpenAI) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    both = [
        client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=8)
        for messages in (QUESTION, parts)
    ]

    assert both[0].choices[0].message.content == both[1].choices[0].message.content


def test_a_prediction_changes_no_token_and_its_use_is_counted(client: openai.OpenAI, api: RunningApi) -> None:
    question = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    plain = client.chat.completions.create(**question)
    text = plain.choices[0].message.content
    right = client.chat.completions.create(**question, prediction={"type": "content", "content": text})
    parts = [{"type": "text", "text": "Paris, as far as I know, is what they call it."}]
    wrong = client.chat.completions.create(**question, prediction={"type": "content", "content": parts})

    assert api.node.asked[-1].prediction == parts[0]["text"]
    assert right.choices[0].message.content == wrong.choices[0].message.content == text
    for answer, least in ((plain, 0), (right, 8), (wrong, 0)):
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert (answer.usage.completion_tokens_details.accepted_prediction_tokens or 0) >= least
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens == 0
    assert wrong.usage.completion_tokens_details.rejected_prediction_tokens
    assert (right.usage.completion_tokens_details.rejected_prediction_tokens or 0) <= 2  # tokens are not quite text
    told = right.model_extra["peerllm"]
    assert told["accepted_tokens"] >= (right.usage.completion_tokens_details.accepted_prediction_tokens or 0)
    assert told["rounds"] + told["accepted_tokens"] >= right.usage.completion_tokens - 1


def test_logit_bias_forbids_a_token(client: openai.OpenAI, api: RunningApi) -> None:
    asked = {"model": MODEL, "messages": QUESTION, "temperature": 0.0, "max_tokens": 1}
    first = client.chat.completions.create(**asked)
    model = api.node.model
    assert model is not None
    token = model.tokenizer.encode(first.choices[0].message.content or "")[0]

    other = client.chat.completions.create(**asked, logit_bias={str(token): -100})

    assert other.choices[0].message.content != first.choices[0].message.content


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "peerllm"
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.models.retrieve("hf:owner/repo")


def test_unknown_model_is_404_and_names_what_is_there(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
            client.chat.completions.create(model="gpt-5", messages=QUESTION, stream=stream)
        assert caught.value.code == "model_not_found"


def test_too_long_prompt_is_refused_with_the_counts(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "word " * 2 * CONTEXT_TOKENS}]
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT_TOKENS)) as caught:
        client.chat.completions.create(model=MODEL, messages=long)
    assert caught.value.code == "context_length_exceeded"


def test_loading_model_is_503_with_retry_after(loading_api: RunningApi) -> None:
    with (
        openai.OpenAI(base_url=f"{loading_api.url}/v1", api_key="unused", max_retries=0) as client,
        pytest.raises(openai.InternalServerError, match="25 %") as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert caught.value.status_code == 503
    assert caught.value.code == "model_loading"
    assert caught.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type: 'web_search'"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"functions": []}, "use tools"),
        ({"top_logprobs": 2}, "top_logprobs: needs logprobs"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"truncation": "middle"}, "truncation"),
        ({"chat_template_kwargs": {"messages": "x"}}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"stop": list("abcdefghijklmnopq")}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "?"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type: 'image_url'",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content is missing"),
        ({"messages": [{"role": "tool", "content": "?"}]}, "messages[0].tool_call_id is missing"),
        ({"messages": [{"role": "tool", "content": "?", "tool_call_id": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "?", "tool_calls": []}]}, "messages[0].tool_calls"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": None}, "model"),
        ({"\ud800": 1}, "the body"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(api: RunningApi, change: dict[str, object], named: str) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 1} | change
    response = httpx.post(
        f"{api.url}/v1/chat/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
        trust_env=False,
    )

    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'"text"', b"\xff", b'{"model": NaN}'])
def test_body_that_is_no_request_is_400(loading_api: RunningApi, body: bytes) -> None:
    response = httpx.post(
        f"{loading_api.url}/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json"},
        trust_env=False,
    )

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_nulls_are_as_good_as_absent(api: RunningApi) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 1, "tools": None, "stop": None, "temperature": None}
    assert httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=60, trust_env=False).status_code == 200


def test_unknown_path_and_wrong_method_are_told(loading_api: RunningApi) -> None:
    assert "/v1/nothing" in httpx.get(f"{loading_api.url}/v1/nothing", trust_env=False).json()["error"]["message"]
    assert httpx.get(f"{loading_api.url}/v1/chat/completions", trust_env=False).status_code == 405


def test_hanging_up_ends_the_stream_at_once(api: RunningApi, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=1.5, stream=True, logit_bias=_endless(api)
    ) as stream:
        next(iter(stream))
        assert api.node.answering == 1

    assert eventually(lambda: api.node.answering == 0)
    assert api.node.finished == 0


def test_hanging_up_ends_a_plain_answer_at_once(api: RunningApi) -> None:
    body = {"model": MODEL, "messages": QUESTION, "logit_bias": _endless(api)}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=0.3, trust_env=False)

    assert eventually(lambda: api.node.answering == 0)
    assert api.node.finished == 0


def _endless(api: RunningApi) -> dict[str, int]:
    """Forbids the end: the answer goes on to the end of the context."""
    model = api.node.model
    assert model is not None
    return {str(token): -100 for token in model.tokenizer.eos_ids}
