"""``/control`` through the typed client that tray, TUI and CLI use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from peerllm.config import ApiConfig, Config
from peerllm.errors import ModelLoading, NotRunning, UnknownModel, UsageError
from peerllm.local.client import ChatDone, ChatMessage, LocalClient
from peerllm.local.rendezvous import DaemonAddress
from tests.support.running_api import TOKEN, RunningApi, eventually, running_api
from tests.support.whole_model_node import MODEL

QUESTION = [ChatMessage("user", "What is the capital of France?")]


def client_of(api: RunningApi, token: str = TOKEN) -> LocalClient:
    return LocalClient(DaemonAddress(api.host, api.port, os.getpid(), "0"), token)


@pytest.fixture
def client(loading_api: RunningApi) -> Iterator[LocalClient]:
    with client_of(loading_api) as client:
        yield client


def test_status_peers_and_swarm_arrive_as_they_were(client: LocalClient, loading_api: RunningApi) -> None:
    assert client.status() == loading_api.node.status()
    assert client.peers() == loading_api.node.peers()
    assert client.swarm() == loading_api.node.swarm()
    assert client.models()[0]["state"] == "loading"


def test_orders_reach_the_node(client: LocalClient, loading_api: RunningApi) -> None:
    client.share(True)
    client.join("192.0.2.7:7338")
    assert loading_api.node.sharing
    assert loading_api.node.joined == ["192.0.2.7:7338"]
    client.leave()
    assert loading_api.node.joined == []


def test_lending_is_told_as_it_is(client: LocalClient, loading_api: RunningApi) -> None:
    guest = loading_api.node.guest
    client.share(True)
    assert client.guest() == guest.now
    assert client.guest().signals
    client.pause(time.time() + 60)
    assert client.guest().verdict == "pause"
    assert client.status().lifecycle.name == "paused"
    client.pause(0)
    client.share(False, finish=True)
    assert client.guest().finishing
    client.set_limits({"contribution.slots": 2, "guest.policy": "night"})
    assert client.limits() == guest.limited
    client.set_limits({"guest.policy": None})
    assert {limit.key: limit.source for limit in client.limits()}["guest.policy"] == "default"
    assert client.ledger(1) == guest.rows[:1]
    assert client.ledger(2) == guest.rows
    assert client.log(2) == loading_api.node.log[-2:]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (lambda client: client.pause(time.time() + 400 * 86400), "a year at most"),
        (lambda client: client.pause(-1), "until"),
        (lambda client: client.ledger(0), "days"),
        (lambda client: client.ledger(367), "days"),
        (lambda client: client.log(0), "lines"),
        (lambda client: client.log(1001), "lines"),
        (lambda client: client.set_limits({"api.host": "0.0.0.0"}), "read at the start only"),
        (lambda client: client.set_limits({"contribution.slots": 0}), "1 to 255"),
        (lambda client: client.set_limits({"contribution.slots": {}}), "values"),
    ],
)
def test_nonsense_about_lending_is_refused(
    order: Callable[[LocalClient], object], says: str, client: LocalClient, loading_api: RunningApi
) -> None:
    before = loading_api.node.guest.now, loading_api.node.guest.limited
    with pytest.raises(UsageError, match=says):
        order(client)
    assert (loading_api.node.guest.now, loading_api.node.guest.limited) == before


def test_refusals_are_the_daemon_s_exceptions(client: LocalClient, loading_api: RunningApi) -> None:
    with pytest.raises(UsageError, match=r"no HOST\[:PORT\]"):
        client.join("http://x")
    with pytest.raises(UnknownModel, match="gpt-5"):
        list(client.chat("gpt-5", QUESTION))
    with pytest.raises(ModelLoading, match="25 %") as caught:
        list(client.chat(MODEL, QUESTION))
    assert caught.value.retry_after_s == 3
    with client_of(loading_api, "wrong") as stranger, pytest.raises(UsageError, match="bearer token"):
        stranger.status()


def test_events_begin_with_the_state_and_go_on_with_changes(client: LocalClient) -> None:
    events = client.events()
    first = next(events)
    assert (first.kind, first.data["name"]) == ("lifecycle", "loading")
    client.share(True)
    assert next(events).data == {"enabled": True}
    events.close()


def test_stopping_ends_event_streams_and_the_server(client: LocalClient) -> None:
    events = client.events()
    next(events)
    client.stop()
    assert list(events) == []
    assert eventually(lambda: not _answers(client))


def test_config_shows_secrets_only_as_set() -> None:
    config = replace(Config(), api=ApiConfig(port=0, key="sk-secret-key"))
    with running_api(config) as api, client_of(api) as client:
        shown = client.config()
    assert shown["api"]["key"] == "(set)"
    assert shown["swarm"]["name"] == "home"


def test_chat_streams_and_ends_with_its_account(api: RunningApi) -> None:
    with client_of(api) as client:
        *pieces, done = client.chat(MODEL, QUESTION, options={"temperature": 0, "max_tokens": 6}, token_ids=True)
    assert isinstance(done, ChatDone)
    assert done.completion_tokens == len(done.tokens) == 6
    assert done.route == ("0:30@alone",)
    model = api.node.model
    assert model is not None
    assert "".join(str(piece) for piece in pieces) == model.tokenizer.decode(done.tokens)


def test_closing_a_chat_ends_the_generation(api: RunningApi) -> None:
    with client_of(api) as client:
        chat = client.chat(MODEL, QUESTION, options={"temperature": 1.5})
        next(chat)
        chat.close()
        assert eventually(lambda: api.node.answering == 0)
        assert api.node.finished == 0


def test_nobody_there_is_not_running() -> None:
    with (
        LocalClient(DaemonAddress("127.0.0.1", 1, os.getpid(), "0"), TOKEN) as client,
        pytest.raises(NotRunning, match="peerllm up"),
    ):
        client.status()


def _answers(client: LocalClient) -> bool:
    try:
        client.status()
    except NotRunning:
        return False
    return True
