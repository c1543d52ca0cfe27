"""Calls of tools as the official client sees them, with the embedded model."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.support.whole_model_node import MODEL

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Bern"]}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED: Any = {"type": "function", "function": {"name": "get_time"}}


def ask(client: openai.OpenAI, messages: Any = QUESTION, **more: Any) -> Any:
    given = {"tools": [WEATHER], "max_tokens": 80, "temperature": 0} | more
    return client.chat.completions.create(model=MODEL, messages=messages, **given).choices[0]


def test_a_complete_round_trip_with_a_tool(client: openai.OpenAI) -> None:
    choice = ask(client, tool_choice="required", parallel_tool_calls=False)
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Bern")
    assert not choice.message.content

    result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny", "celsius": 21}'}
    answer = ask(client, [*QUESTION, choice.message.model_dump(exclude_none=True), result], tool_choice="auto")
    assert answer.finish_reason in ("stop", "length", "tool_calls")
    assert answer.message.content or answer.message.tool_calls


def test_streamed_calls_are_those_of_the_plain_answer(client: openai.OpenAI) -> None:
    plain = ask(client, tool_choice="required", parallel_tool_calls=False)
    name, arguments, pieces, reasons = "", "", 0, []
    stream: Any = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=80,
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        reasons.append(chunk.choices[0].finish_reason)
        for call in chunk.choices[0].delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            pieces += 1
        assert not chunk.choices[0].delta.content
    (call,) = plain.message.tool_calls
    assert (name, arguments, reasons[-1]) == (call.function.name, call.function.arguments, "tool_calls")
    assert pieces > 2


def test_the_named_function_is_called(client: openai.OpenAI) -> None:
    choice = ask(client, tools=[WEATHER, TIME], tool_choice=NAMED)
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [("get_time", "{}")]


def test_without_a_choice_of_tools_none_is_called(client: openai.OpenAI) -> None:
    plain = ask(client, tools=openai.omit, max_tokens=16)
    assert ask(client, tool_choice="none", max_tokens=16).message.content == plain.message.content


def test_a_call_cut_short_is_told_as_far_as_it_came(client: openai.OpenAI) -> None:
    choice = ask(client, tool_choice="required", max_tokens=16)
    assert choice.finish_reason == "length"
    for call in choice.message.tool_calls or []:
        assert call.function.name == "get_weather"


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' tools are not supported, only functions are"),
    ({"tools": [TIME, TIME]}, "tools[1]", "another function named get_time"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [{**TIME, "more": 1}]}, "tools[0].more", "not supported"),
    ({"tool_choice": NAMED}, "tool_choice.function.name", "'get_time' is none of the tools"),
    ({"tool_choice": "maybe"}, "tool_choice", "'none', 'auto' or 'required'"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "'allowed_tools' tools are not supported"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "tools is empty"),
    ({"extra_body": {"chat_template_kwargs": {"messages": 1}}}, "chat_template_kwargs", "'messages'"),
    ({"extra_body": {"chat_template_kwargs": {"x": []}}}, "chat_template_kwargs.x", "must be a text"),
)


@pytest.mark.parametrize(("fields", "place", "message"), REFUSED, ids=str)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert message in refused.value.message
    assert refused.value.param == place


def test_results_without_their_calls_are_refused_with_their_place(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, [*QUESTION, {"role": "tool", "tool_call_id": "x", "content": "3"}])
    assert refused.value.param == "messages[1].tool_call_id"
    assert "no open call" in refused.value.message
