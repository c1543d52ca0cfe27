"""``/v1/completions`` and several choices of a chat, as the official client and evaluation harnesses ask for them."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import openai
import pytest

from peerllm.api.completion_schema import TextCompletionObject
from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import MODEL

PROMPT = "The capital of France is"
QUESTION = [{"role": "user", "content": "Name a colour."}]


def ask(api: RunningApi, **body: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 4} | body
    response = httpx.post(f"{api.url}/v1/completions", json=asked, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    TextCompletionObject.model_validate_json(response.content, strict=True)
    return response.json()


def tokens_of(api: RunningApi, text: str) -> list[int]:
    assert api.node.model is not None
    return api.node.model.tokenizer.encode(text)


def test_a_text_is_continued_as_it_stands(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16, "OpenAI's default"


def test_prompts_and_choices_have_their_places(api: RunningApi) -> None:
    other = "Two and two is"
    both = ask(api, prompt=[PROMPT, other], n=2, echo=True)
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    for choice, prompt in zip(both["choices"], (PROMPT, PROMPT, other, other), strict=True):
        assert choice["text"].startswith(prompt)
        assert len(choice["text"]) > len(prompt)
    prompts = sum(len(tokens_of(api, text)) for text in (PROMPT, other))
    assert both["usage"]["prompt_tokens"] == prompts, "each counts once"


def test_tokens_are_as_good_as_their_text(api: RunningApi) -> None:
    tokens = tokens_of(api, PROMPT)
    assert ask(api, prompt=tokens)["choices"][0]["text"] == ask(api, prompt=PROMPT)["choices"][0]["text"]
    both = ask(api, prompt=[tokens, tokens[:2]], echo=True, max_tokens=0)["choices"]
    assert [choice["text"] for choice in both] == [PROMPT, "The capital"]


def test_each_choice_has_the_seed_after_the_one_before(api: RunningApi) -> None:
    choices = ask(api, prompt=["a", "b"], temperature=1.5, seed=5, n=3)["choices"]
    assert sorted((request.id.count("."), request.sampling.seed) for request in api.node.asked) == [
        (0, 5),
        *((1, seed) for seed in (5, 6, 6, 7, 7)),
    ]
    assert len({choice["text"] for choice in choices}) > 1


def test_an_echoed_prompt_is_scored_like_the_answer_it_once_was(api: RunningApi) -> None:
    """What was drawn token by token has the same log probabilities when it is read at once."""
    drawn = ask(api, prompt=PROMPT, max_tokens=8, logprobs=1)["choices"][0]
    read = ask(api, prompt=PROMPT + drawn["text"], max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert read["text"] == PROMPT + drawn["text"]
    assert read["finish_reason"] == "length"
    first = len(read["logprobs"]["tokens"]) - len(drawn["logprobs"]["tokens"])
    assert read["logprobs"]["tokens"][first:] == drawn["logprobs"]["tokens"]
    scores = zip(read["logprobs"]["token_logprobs"][first:], drawn["logprobs"]["token_logprobs"], strict=True)
    assert all(math.isclose(once, again, abs_tol=0.02) for once, again in scores)
    assert read["logprobs"]["token_logprobs"][0] is None
    assert read["logprobs"]["top_logprobs"][0] is None


@pytest.mark.parametrize("text", ["Grüße aus Köln", "日本語 🙂 x", " two  spaces"])
def test_offsets_are_characters_of_the_text(api: RunningApi, text: str) -> None:
    choice = ask(api, prompt=text, echo=True, logprobs=0, max_tokens=3)["choices"][0]
    lists = choice["logprobs"]
    assert choice["text"].startswith(text)
    spelled, begun = b"", []
    for token in lists["tokens"]:
        begun.append(len(spelled.decode(errors="ignore")))
        spelled += _bytes(token)
    assert lists["text_offset"] == begun
    assert spelled.decode(errors="replace").startswith(choice["text"])


def test_a_harness_finds_the_likelihood_of_a_continuation(api: RunningApi) -> None:
    """As lm-eval's `local-completions` asks and reads: batches of tokens, one more token, whose score it drops."""
    context, continuations = tokens_of(api, "Paris is the capital of"), [" France", " cheese", "."]
    prompts = [context + tokens_of(api, text) for text in continuations]
    answer = ask(api, prompt=prompts, max_tokens=1, logprobs=1, echo=True, seed=1234)
    scores, greedy = [], []
    for choice in sorted(answer["choices"], key=lambda choice: choice["index"]):
        told = choice["logprobs"]["token_logprobs"][len(context) : -1]
        top = choice["logprobs"]["top_logprobs"][len(context) : -1]
        assert len(told) == len(prompts[choice["index"]]) - len(context)
        scores.append(sum(told))
        greedy.append(all(score == max(likeliest.values()) for score, likeliest in zip(told, top, strict=True)))
    assert scores[0] > scores[1]
    assert greedy[1] is False


def test_the_token_that_ends_an_answer_is_scored_too(api: RunningApi) -> None:
    """Or a harness that drops the last score would drop one of the prompt's."""
    assert api.node.model is not None
    end = min(api.node.model.tokenizer.eos_ids)
    asked = {"prompt": tokens_of(api, PROMPT), "logit_bias": {str(end): 100}, "echo": True, "logprobs": 1}
    choice = ask(api, **asked)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == PROMPT
    assert len(choice["logprobs"]["token_logprobs"]) == len(tokens_of(api, PROMPT)) + 1
    assert choice["logprobs"]["text_offset"][-1] == len(PROMPT)


def test_a_stop_string_is_in_none_of_the_lists(api: RunningApi) -> None:
    plain = ask(api, prompt=PROMPT, max_tokens=12, logprobs=0)["choices"][0]
    stop = plain["text"][4:9]
    cut = ask(api, prompt=PROMPT, max_tokens=12, logprobs=0, stop=stop)["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == plain["text"][: plain["text"].index(stop)]
    assert all(offset < len(cut["text"]) for offset in cut["logprobs"]["text_offset"])


def test_a_stream_adds_up_to_the_whole(api: RunningApi) -> None:
    asked = {"prompt": "One, two,", "echo": True, "logprobs": 2}
    whole = ask(api, **asked)
    body = {"model": MODEL, "temperature": 0, "max_tokens": 4, "stream": True} | asked
    body["stream_options"] = {"include_usage": True}
    response = httpx.post(f"{api.url}/v1/completions", json=body, timeout=60, trust_env=False)
    events = [event.removeprefix("data: ") for event in response.text.split("\n\n") if event.startswith("data: ")]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[-1]["usage"] == whole["usage"]
    [choice] = whole["choices"]
    parts = [part for chunk in chunks for part in chunk["choices"]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [choice["finish_reason"]]
    for name in ("tokens", "text_offset"):
        assert [value for part in parts for value in part["logprobs"][name]] == choice["logprobs"][name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [10**8]}, "100000000"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens: may be 0 only with echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": ["a"] * 100, "n": 3}, "n: times"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"99999999": 1}}, "99999999"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(api: RunningApi, change: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1} | change
    response = httpx.post(f"{api.url}/v1/completions", json=body, timeout=30, trust_env=False)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_several_answers_of_a_chat_are_streamed_side_by_side(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, n=3, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    written = 0
    for index in range(3):
        own = [part for chunk in chunks for part in chunk.choices if part.index == index]
        assert (own[0].delta.role, own[0].delta.content) == ("assistant", "")
        assert [part.finish_reason for part in own if part.finish_reason] == [own[-1].finish_reason]
        written += sum(bool(part.delta.content) for part in own)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens >= written


def test_log_probabilities_of_a_chat_add_up_to_its_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    ).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.content
    spelled = b"".join(bytes(token.bytes or ()) for token in answer.logprobs.content)
    assert spelled.decode() == answer.message.content
    for token in answer.logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "the likeliest was chosen"


def test_hanging_up_ends_all_answers_of_a_stream_at_once(client: openai.OpenAI, api: RunningApi) -> None:
    assert api.node.model is not None
    endless = {str(token): -100 for token in api.node.model.tokenizer.eos_ids}
    with client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=4, temperature=1.5, stream=True, logit_bias=endless
    ) as stream:
        next(iter(stream))
        assert eventually(lambda: api.node.answering == 4)
    assert eventually(lambda: api.node.answering == 0)
    assert api.node.finished == 0


def _bytes(token: str) -> bytes:
    if not token.startswith("bytes:"):
        return token.encode()
    return bytes(int(code, 16) for code in token.removeprefix("bytes:").split("\\x")[1:])
