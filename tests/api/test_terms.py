"""``X-Peerllm-*`` headers: what a request may demand of its route, and what it is told of it."""

from __future__ import annotations

import httpx
import pytest

from peerllm.api.terms import terms_of
from peerllm.errors import UsageError
from peerllm.generation.route_terms import RouteTerms
from tests.support.running_api import RunningApi, eventually
from tests.support.whole_model_node import MODEL

QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}


def ask(api: RunningApi, headers: dict[str, str], **changes: object) -> httpx.Response:
    return httpx.post(
        f"{api.url}/v1/chat/completions", json=QUESTION | changes, headers=headers, timeout=60, trust_env=False
    )


def test_demands_reach_the_node(api: RunningApi) -> None:
    headers = {
        "X-Peerllm-Pin": "Wohnzimmer, 12D3KooWabcd",
        "X-Peerllm-Exclude": "Keller",
        "X-Peerllm-Trust": "friends",
        "X-Peerllm-Deadline-S": "30",
        "X-Peerllm-Speculation": "off",
    }
    assert ask(api, headers).status_code == 200
    assert api.node.asked[-1].terms == RouteTerms(("Wohnzimmer", "12D3KooWabcd"), ("Keller",), "friends", 30.0, False)
    assert ask(api, {}).status_code == 200
    assert api.node.asked[-1].terms == RouteTerms()


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("X-Peerllm-Trust", "everybody", "own, friends, swarm"),
        ("X-Peerllm-Deadline-S", "soon", "seconds above 0"),
        ("X-Peerllm-Deadline-S", "-1", "seconds above 0"),
        ("X-Peerllm-Deadline-S", "nan", "seconds above 0"),
        ("X-Peerllm-Speculation", "on", "auto, off"),
        ("X-Peerllm-Pin", "a,,b", "ids or names of peers"),
        ("X-Peerllm-Pin", ",".join("abcd" for _ in range(33)), "up to 32"),
        ("X-Peerllm-Pinn", "Keller", "there is no header x-peerllm-pinn"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_demands_that_cannot_be_are_refused(
    loading_api: RunningApi, name: str, value: str, fragment: str, stream: bool
) -> None:
    response = ask(loading_api, {name: value}, stream=stream)
    assert response.status_code == 400
    assert fragment in response.json()["error"]["message"]
    assert not loading_api.node.asked


def test_an_answer_that_misses_its_deadline_is_504_and_given_up(api: RunningApi) -> None:
    response = ask(api, {"X-Peerllm-Deadline-S": "0.05"}, max_tokens=300)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert "0.05 s" in response.json()["error"]["message"]
    assert eventually(lambda: api.node.answering == 0)


def test_headers_default_to_the_config() -> None:
    default = RouteTerms(trust="own", deadline_s=5.0)
    assert terms_of({}, default) == default
    assert terms_of({"x-peerllm-trust": "swarm"}, default) == RouteTerms(deadline_s=5.0)
    with pytest.raises(UsageError):
        terms_of({"x-peerllm-trust": ""}, default)
