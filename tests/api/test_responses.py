"""``/v1/responses`` as the official client sees it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.support.responding import ASKED, QUESTION, WEATHER, events_of, messages_of, post
from tests.support.response_streams import check_stream
from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import CONTEXT_TOKENS, MODEL


def test_plain_answer_is_that_of_a_chat(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED)
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=12
    )

    assert response.output_text == chat.choices[0].message.content
    assert response.id.startswith("resp_")
    assert response.object == "response"
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens


def test_request_is_repeated_in_the_response(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ASKED | {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 2},
        instructions="Be brief.",
        metadata={"purpose": "test"},
        truncation="disabled",
        safety_identifier="me",
        prompt_cache_key="k",
        store=False,
    )

    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 2)
    assert (response.instructions, response.metadata) == ("Be brief.", {"purpose": "test"})
    assert (response.safety_identifier, response.prompt_cache_key) == ("me", "k")
    assert (response.status, response.error, response.tools) == ("incomplete", None, [])
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_stream_is_the_plain_answer(api: RunningApi, client: openai.OpenAI) -> None:
    plain = client.responses.create(**ASKED)
    response = post(api, ASKED | {"stream": True})
    events = events_of(response)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == events[0]["response"]["id"]
    assert "[DONE]" not in response.text
    check_stream(events)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == plain.output_text
    assert plain.usage is not None
    assert events[-1]["response"]["usage"]["output_tokens"] == plain.usage.output_tokens


def test_stream_helper_of_the_client_reads_it(client: openai.OpenAI) -> None:
    with client.responses.stream(**ASKED | {"input": "What is 2+2? Answer with one number."}) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert final.output_text == "".join(texts)
    assert final.status == "completed"


def test_items_become_a_chat(api: RunningApi, client: openai.OpenAI) -> None:
    client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        max_output_tokens=1,
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}],
            },
            {"role": "developer", "content": "d"},
            {"role": "user", "content": "e"},
        ],
    )

    assert messages_of(api) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "e"},
    ]


def test_output_goes_back_in_as_input(api: RunningApi, client: openai.OpenAI) -> None:
    first = client.responses.create(**ASKED)
    again: list[Any] = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And Spain?"}]
    client.responses.create(**ASKED | {"input": again})

    assert [message["content"] for message in messages_of(api)] == [QUESTION, first.output_text, "And Spain?"]


def calls(arguments: str, output_of: str | None) -> dict[str, Any]:
    """A call, and perhaps an output."""
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": arguments}
    outputs = [{"type": "function_call_output", "call_id": output_of, "output": "rain"}] if output_of else []
    return {"input": [call, *outputs]}


def message(content: Any, **fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": content, **fields}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "?"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        (message([{"type": "input_image", "image_url": "x"}]), "input[0].content[0]"),
        (message([{"type": "input_text"}]), "input[0].content[0].text"),
        (message([{"type": "input_text", "text": "?", "colour": 1}]), "input[0].content[0].colour"),
        (message("?", phase="commentary"), "input[0].phase"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"truncation": "middle"}, "truncation"),
        ({"reasoning": {"effort": "xhigh"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x y", "schema": {}}}}, "text.format.name"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}, "strict": True}}},
            "text.format",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]}, "tools[0].parameters.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
        (calls("?", None), "input[0].arguments"),
        (calls("[]", None), "input[0].arguments"),
        (calls("{}", None), "input[0]"),
        (calls("{}", "call_2"), "input[1].call_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(key): "" for key in range(17)}}, "metadata"),
        ({"seed": 1}, "seed"),
        ({"stop": "x"}, "stop"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(idle_api: RunningApi, change: dict[str, Any], param: str) -> None:
    response = post(idle_api, ASKED | change)

    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert error["param"] in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_event_have_their_status(api: RunningApi, stream: bool) -> None:
    for change, status, code in (
        ({"model": "gpt-5"}, 404, "model_not_found"),
        ({"input": "word " * 2 * CONTEXT_TOKENS}, 400, "context_length_exceeded"),
    ):
        response = post(api, ASKED | {"stream": stream} | change)
        assert response.status_code == status
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("effort", "switch"), [("none", "enable_thinking"), ("low", "reasoning_effort"), ("high", "reasoning_effort")]
)
def test_effort_needs_a_switch_in_the_template(api: RunningApi, effort: str, switch: str) -> None:
    response = post(api, ASKED | {"reasoning": {"effort": effort}})

    assert response.status_code == 400
    assert switch in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_loading_model_is_503_with_retry_after(loading_api: RunningApi, stream: bool) -> None:
    response = post(loading_api, ASKED | {"stream": stream})

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_loading"
    assert response.headers["retry-after"] == "3"


def test_nulls_are_as_good_as_absent(api: RunningApi) -> None:
    nulls = dict.fromkeys(("instructions", "store", "tools", "text", "seed", "include", "temperature", "metadata"))
    assert post(api, ASKED | nulls | {"max_output_tokens": 1}).status_code == 200


def test_hanging_up_ends_the_stream_at_once(api: RunningApi, client: openai.OpenAI) -> None:
    with client.responses.create(model=MODEL, input="Count to 1000.", temperature=1.5, stream=True) as stream:
        next(iter(stream))

    assert eventually(lambda: api.node.answering == 0)


def test_input_that_does_not_fit_is_cut_on_request(client: openai.OpenAI) -> None:
    words = "word " * CONTEXT_TOKENS
    given: Any = [{"role": "user", "content": words}, {"role": "assistant", "content": "?"}, message("Hi")["input"][0]]
    asked = ASKED | {"input": given}
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**asked)
    response = client.responses.create(**asked, truncation="auto")

    extra = response.to_dict()["peerllm"]
    assert isinstance(extra, dict)
    assert int(extra["dropped_tokens"]) > CONTEXT_TOKENS / 2


def test_account_of_a_response_is_found_by_its_id(api: RunningApi, client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED)

    assert api.node.asked[-1].id == response.id
