"""``/v1/responses`` that are stored, where the owner allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from peerllm.api.response_schema import DeletedResponse, InputItemList, ResponseState
from peerllm.api.response_store import ResponseStore
from tests.api.conftest import ANY_PORT
from tests.support.responding import ASKED, QUESTION, WEATHER, events_of, messages_of, post
from tests.support.response_streams import check_stream
from tests.support.running_api import RunningApi, running_api
from tests.support.whole_model_node import WholeModel


def test_response_is_stored_on_request_alone(storing_client: openai.OpenAI) -> None:
    kept = storing_client.responses.create(**ASKED, store=True)
    other = storing_client.responses.create(**ASKED)

    assert storing_client.responses.retrieve(kept.id) == kept
    with pytest.raises(openai.NotFoundError) as caught:
        storing_client.responses.retrieve(other.id)
    assert caught.value.code == "response_not_found"


def test_streamed_response_is_stored_before_its_end_is_told(storing_client: openai.OpenAI) -> None:
    for event in storing_client.responses.create(**ASKED, store=True, stream=True):
        if event.type in ("response.completed", "response.incomplete"):
            assert storing_client.responses.retrieve(event.response.id) == event.response
            return
    pytest.fail("the stream had no end")


@pytest.mark.parametrize("stream", [False, True])
def test_response_that_cannot_be_stored_has_failed(whole_model: WholeModel, tmp_path: Path, stream: bool) -> None:
    (tmp_path / "file").touch()
    with running_api(ANY_PORT, whole_model, responses=ResponseStore(tmp_path / "file")) as api:
        response = post(api, ASKED | {"store": True, "stream": stream})

    if stream:
        events = events_of(response)
        check_stream(events)
        assert events[-1]["type"] == "response.failed"
    else:
        assert response.status_code == 500
    assert "cannot be stored" in response.text


def test_conversation_goes_on_from_a_stored_response(storing_api: RunningApi, storing_client: openai.OpenAI) -> None:
    first = storing_client.responses.create(**ASKED, store=True, instructions="Not for the next one.")
    second = storing_client.responses.create(
        **ASKED | {"input": "And Spain?"}, store=True, previous_response_id=first.id
    )
    storing_client.responses.create(**ASKED | {"input": "And Italy?"}, previous_response_id=second.id)

    assert [message["content"] for message in messages_of(storing_api)] == [
        QUESTION,
        first.output_text,
        "And Spain?",
        second.output_text,
        "And Italy?",
    ]
    assert second.previous_response_id == first.id


def test_conversation_from_an_unknown_response_is_404(storing_client: openai.OpenAI) -> None:
    for unknown in ("resp_" + "0" * 32, "../control.token"):
        with pytest.raises(openai.NotFoundError) as caught:
            storing_client.responses.create(**ASKED, previous_response_id=unknown)
        assert caught.value.code == "response_not_found"


def test_stored_response_is_deleted(storing_client: openai.OpenAI) -> None:
    kept = storing_client.responses.create(**ASKED, store=True)
    storing_client.responses.delete(kept.id)

    with pytest.raises(openai.NotFoundError):
        storing_client.responses.retrieve(kept.id)
    with pytest.raises(openai.NotFoundError):
        storing_client.responses.delete(kept.id)


def test_input_items_are_listed_page_by_page(storing_client: openai.OpenAI) -> None:
    given: Any = [{"role": "user", "content": text} for text in "abc"]
    kept = storing_client.responses.create(**ASKED | {"input": given}, store=True)

    def listed(**query: Any) -> list[str]:
        items: list[Any] = list(storing_client.responses.input_items.list(kept.id, **query))
        return [item.content[0].text for item in items]

    assert listed() == ["c", "b", "a"]
    assert listed(order="asc", limit=2) == ["a", "b", "c"]
    page = storing_client.responses.input_items.list(kept.id, order="asc", limit=2)
    assert page.has_more
    assert [item.content[0].text for item in page.data] == ["a", "b"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "before=a", "include=x"])
def test_query_that_is_not_understood_is_refused_by_name(storing_api: RunningApi, query: str) -> None:
    url = f"{storing_api.url}/v1/responses/resp_{'0' * 32}/input_items?{query}"
    response = httpx.get(url, trust_env=False)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.split("=")[0]


@pytest.mark.parametrize("asked", [{"store": True}, {"previous_response_id": "resp_" + "0" * 32}])
def test_storage_that_is_off_is_told_by_its_setting(loading_api: RunningApi, asked: dict[str, Any]) -> None:
    response = post(loading_api, ASKED | asked)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "storage_off"
    assert "api.store_responses" in response.json()["error"]["message"]


def test_nothing_is_stored_where_storage_is_off(loading_api: RunningApi) -> None:
    url = f"{loading_api.url}/v1/responses/resp_{'0' * 32}"
    for response in (
        httpx.get(url, trust_env=False),
        httpx.delete(url, trust_env=False),
        httpx.get(f"{url}/input_items", trust_env=False),
    ):
        assert response.status_code == 400
        assert "api.store_responses" in response.json()["error"]["message"]


def test_responses_are_as_described(storing_api: RunningApi) -> None:
    asked = ASKED | {"store": True, "tools": [WEATHER], "include": ["message.output_text.logprobs"]}
    asked |= {"text": {"format": {"type": "json_schema", "name": "any", "schema": {"type": "object"}}}}
    made = post(storing_api, asked | {"tool_choice": "none"}).json()
    called = post(storing_api, asked | {"tool_choice": {"type": "function", "name": "weather"}}).json()
    for response in (made, called):
        url = f"{storing_api.url}/v1/responses/{response['id']}"
        ResponseState.model_validate(response)
        assert httpx.get(url, trust_env=False).json() == response
        InputItemList.model_validate(httpx.get(f"{url}/input_items", trust_env=False).json())
        DeletedResponse.model_validate(httpx.delete(url, trust_env=False).json())
