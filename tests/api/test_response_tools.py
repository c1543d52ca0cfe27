"""Schemas, functions and log probabilities of ``/v1/responses``."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.responding import ASKED, QUESTION, WEATHER, events_of, messages_of, post
from tests.support.response_streams import check_stream
from tests.support.running_api import RunningApi
from tests.support.whole_model_node import MODEL


class Person(BaseModel):
    name: str
    age: int


def test_parsed_answer_follows_its_schema(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        **ASKED | {"input": "Name a person.", "temperature": 1, "max_output_tokens": 128}, text_format=Person
    )

    assert isinstance(response.output_parsed, Person)
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


def test_json_object_is_one(client: openai.OpenAI) -> None:
    asked = ASKED | {"input": "The numbers of 1 and 2 in JSON", "max_output_tokens": 100}
    response = client.responses.create(**asked, text={"format": {"type": "json_object"}})

    if response.status == "completed":
        assert isinstance(json.loads(response.output_text), dict)
    else:
        assert response.output_text.lstrip().startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_function_is_called(api: RunningApi, client: openai.OpenAI, choice: Any) -> None:
    asked: Any = ASKED | {"input": "Weather in Rome?", "max_output_tokens": 64}
    asked |= {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    response = client.responses.create(**asked)

    assert response.status == "completed"
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert json.loads(call.arguments).keys() == {"place"}
    assert response.tools[0].to_dict() == WEATHER
    events = events_of(post(api, asked | {"stream": True}))
    check_stream(events)
    streamed = events[-1]["response"]["output"][0]
    assert (streamed["name"], streamed["arguments"]) == (call.name, call.arguments)
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) > 1


def test_output_of_a_function_goes_on_in_the_conversation(
    storing_api: RunningApi, storing_client: openai.OpenAI
) -> None:
    tools: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    first = storing_client.responses.create(
        **ASKED | {"input": "Weather in Rome?", "max_output_tokens": 64}, **tools, store=True
    )
    call: Any = first.output[0]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    storing_client.responses.create(**ASKED | {"input": [output]}, previous_response_id=first.id)

    assert messages_of(storing_api) == [
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": call.call_id, "type": "function", "function": {"name": "weather", "arguments": call.arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": call.call_id, "content": "rain"},
    ]
    without = post(storing_api, ASKED | {"previous_response_id": first.id})
    assert without.status_code == 400
    assert call.call_id in without.json()["error"]["message"]


def test_reasoning_and_calls_of_a_turn_are_one_message(api: RunningApi, client: openai.OpenAI) -> None:
    def reasoning(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}

    def call(call_id: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": "{}"}

    given: Any = [
        {"role": "user", "content": "?"},
        reasoning("first"),
        {"role": "assistant", "content": "Let me see."},
        call("a"),
        call("b"),
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "function_call_output", "call_id": "a", "output": "sun"},
        reasoning("then"),
        {"role": "assistant", "content": "Rain and sun."},
        {"role": "user", "content": "Thanks"},
    ]
    client.responses.create(**ASKED | {"input": given, "max_output_tokens": 1})

    function = {"name": "weather", "arguments": "{}"}
    assert messages_of(api)[1:5] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "first",
            "tool_calls": [{"id": name, "type": "function", "function": function} for name in "ab"],
        },
        {"role": "tool", "tool_call_id": "b", "content": "rain"},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "assistant", "content": "Rain and sun.", "reasoning_content": "then"},
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_scores_are_those_of_a_chat(client: openai.OpenAI, api: RunningApi, stream: bool) -> None:
    asked = ASKED | {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "stream": stream}
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=12,
        logprobs=True,
        top_logprobs=2,
    )
    response = post(api, asked)
    events = events_of(response) if stream else []
    final = events[-1]["response"] if stream else response.json()
    scores = final["output"][0]["content"][0]["logprobs"]

    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content is not None
    expected = [entry.to_dict() for entry in chat.choices[0].logprobs.content]
    assert [entry["token"] for entry in scores] == [entry["token"] for entry in expected]
    assert scores == expected
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert not stream or [entry for delta in deltas for entry in delta] == expected
