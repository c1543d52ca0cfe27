"""Requests to ``/v1/responses``, and what came of them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from peerllm.generation.answer_request import ChatPrompt
from tests.support.running_api import RunningApi
from tests.support.whole_model_node import MODEL

QUESTION = "What is the capital of France?"


ASKED: dict[str, Any] = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 12}


def post(api: RunningApi, body: dict[str, Any]) -> httpx.Response:
    """With what the official client would not send."""
    return httpx.post(
        f"{api.url}/v1/responses",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
        timeout=60,
        trust_env=False,
    )


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The stream's events, whose names are those of their types."""
    events: list[dict[str, Any]] = []
    for block in response.text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def messages_of(api: RunningApi) -> list[dict[str, Any]]:
    """The chat that the node was asked to continue last."""
    prompt = api.node.asked[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return [dict(message) for message in prompt.messages]


WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 12}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}
