"""Chat choices out of events: content, reasoning, calls and log probabilities, whole and in chunks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peerllm.api.chat_completion import KINDS, ChatChoice
from peerllm.api.completion import Completion, CompletionHead, usage
from peerllm.api.completion_schema import ChatCompletionChunk, ChatCompletionObject
from peerllm.errors import GenerationError
from peerllm.generation.answer import (
    AnswerEvent,
    CallArguments,
    CallBegins,
    Content,
    Delta,
    Finished,
    Part,
    Reasoning,
    ScoredToken,
)

ALTERNATIVE = ScoredToken(9, b"\xe2\x80", -2.0)


def delta(text: str, *parts: Part, scored: bool = False) -> Delta:
    score = ScoredToken(7, text.encode(), -0.25) if scored else None
    return Delta(text, 7, parts, score, (ALTERNATIVE,) if scored else ())


def end(reason: str = "stop", *parts: Part, cached: int = 0, dropped: int = 0) -> Finished:
    return Finished(
        reason, 10, 4, 0.5, 8.0, ("0:6@a", "6:12@b"), parts=parts, cached_tokens=cached, dropped_tokens=dropped
    )


CALLS = (
    delta("hm", Reasoning("hm")),
    delta("", CallBegins(0, "call_1", "weather")),
    delta('{"city":', CallArguments(0, '{"city":')),
    delta('"Bern"}', CallArguments(0, '"Bern"}'), CallBegins(1, "call_2", "time")),
    end("tool_calls", CallArguments(1, "{}")),
)


def completion(*, choices: int = 1, logprobs: bool = False, **head: Any) -> Completion:
    made = [ChatChoice(at, logprobs=logprobs) for at in range(choices)]
    return Completion(CompletionHead("m", "chatcmpl-1", KINDS, **head), made, choices)


async def events_of(*events: tuple[int, AnswerEvent]) -> AsyncIterator[tuple[int, AnswerEvent]]:
    for event in events:
        yield event


def whole(made: Completion, *events: tuple[int, AnswerEvent]) -> dict[str, Any]:
    answer = asyncio.run(made.whole(events_of(*events)))
    ChatCompletionObject.model_validate(answer, strict=True)
    return answer


def streamed(made: Completion, *events: tuple[int, AnswerEvent]) -> list[dict[str, Any]]:
    async def frames() -> list[bytes]:
        return [frame async for frame in made.chunks(events_of(*events))]

    *chunks, done = asyncio.run(frames())
    assert done == b"data: [DONE]\n\n"
    read = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    for chunk in read:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return read


def of_first(*events: AnswerEvent) -> list[tuple[int, AnswerEvent]]:
    return [(0, event) for event in events]


def test_calls_and_reasoning_stand_in_the_message() -> None:
    [choice] = whole(completion(), *of_first(*CALLS))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


def test_calls_are_streamed_as_they_are_written() -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(completion(), *of_first(*CALLS))]
    named = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"tool_calls": [named]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]},
        {"tool_calls": [named | {"index": 1, "id": "call_2", "function": {"name": "time", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]


def test_each_choice_begins_with_its_role_and_ends_with_its_reason() -> None:
    events = [(1, delta("b", Content("b"))), (0, delta("a", Content("a"))), (1, end("length")), (0, end())]
    chunks = streamed(completion(choices=2), *events)
    for index, text, reason in ((0, "a", "stop"), (1, "b", "length")):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert [c["delta"] for c in own] == [{"role": "assistant", "content": ""}, {"content": text}, {}]
        assert [c["finish_reason"] for c in own] == [None, None, reason]


def test_a_prompt_counts_once_and_what_one_answer_computed_was_not_cached() -> None:
    ends = [end(cached=0), end(cached=9), end(cached=9), end(cached=8)]
    assert usage(ends, per_prompt=2) == {
        "prompt_tokens": 20,
        "completion_tokens": 16,
        "total_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    }


def test_logprobs_have_tokens_bytes_and_alternatives() -> None:
    made = completion(logprobs=True)
    [choice] = whole(made, *of_first(delta("é", Content("é"), scored=True), end()))["choices"]
    alternative = {"token": "\\xe2\\x80", "bytes": [0xE2, 0x80], "logprob": -2.0}
    own = {"token": "é", "bytes": [0xC3, 0xA9], "logprob": -0.25, "top_logprobs": [alternative]}
    assert choice["logprobs"] == {"content": [own], "refusal": None}


def test_streamed_logprobs_add_up_to_the_whole_and_never_precede_their_text() -> None:
    events = of_first(
        delta("a", Content("a"), scored=True),
        Delta("", 7, (), ScoredToken(7, b"b", -1.0)),  # may yet become a stop string
        Delta("bc", 7, (Content("bc"),), ScoredToken(7, b"c", -1.0)),
        Delta("", 7, (), ScoredToken(7, b"STOP", -1.0)),
        end(),
    )
    chunks = streamed(completion(logprobs=True), *events)
    told = [[entry["token"] for entry in (c["choices"][0]["logprobs"] or {"content": []})["content"]] for c in chunks]
    assert told == [[], ["a"], ["b", "c"], []]
    [choice] = whole(completion(logprobs=True), *events)["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["a", "b", "c"]


def test_usage_and_what_a_swarm_knows_come_last_where_asked_for() -> None:
    *chunks, last = streamed(completion(include_usage=True, token_ids=True), *of_first(delta("a", Content("a")), end()))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["peerllm"] == {
        "route": ["0:6@a", "6:12@b"],
        "ttft_s": 0.5,
        "tokens_per_s": 8.0,
        "recoveries": 0,
        "dropped_tokens": 0,
        "rounds": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "tokens": [7],
    }


def test_a_prompt_that_was_cut_is_told_of_without_usage_too() -> None:
    *_, last = streamed(completion(), *of_first(delta("a", Content("a")), end(dropped=5)))
    assert last["peerllm"] == {"dropped_tokens": 5}
    assert "usage" not in last


def test_an_answer_without_an_end_is_a_failure() -> None:
    with pytest.raises(GenerationError, match="without an end"):
        asyncio.run(completion(choices=2).whole(events_of((0, end()))))
