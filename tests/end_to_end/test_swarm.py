"""Four daemons as processes share one model, three of them enough for it; every test leaves them serving."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from openai import OpenAI

from peerllm.local.client import ChatDone, ChatMessage
from peerllm.model.catalog import DEFAULT
from tests.support.daemons import Daemon, processes_of
from tests.support.split_swarm import split_swarm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

QUESTION = "Why is the sky blue?"
SPANS = ("0:12", "12:22", "22:30", "10:24")
MIDDLE = (1, 3)  # either of the two can be spared


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swarm")


@pytest.fixture(scope="module")
def swarm(home: Path) -> Iterator[list[Daemon]]:
    with split_swarm(home, SPANS, members=["alone"]) as daemons:
        yield daemons


@pytest.fixture(scope="module")
def expected(swarm: list[Daemon]) -> tuple[int, ...]:
    """The answer's tokens while nothing goes wrong."""
    return _ask(swarm[0])[1].tokens


def test_swarm_covers_every_block(swarm: list[Daemon]) -> None:
    answer = swarm[2].run("swarm", "--json")
    assert answer.returncode == 0, answer.stderr
    with swarm[2].client() as client:
        assert [(model.covered, model.gaps) for model in client.swarm().models] == [(30, ())]


def test_neighbours_speak_by_direct_sockets(swarm: list[Daemon], expected: tuple[int, ...]) -> None:
    """`expected`: an answer has gone through them."""
    with swarm[0].client() as client:
        assert any(peer.by_socket for peer in client.peers())
        status = client.status()
    assert status.network.direct_port


def test_a_peer_that_serves_gguf_files_does_without_torch(swarm: list[Daemon], expected: tuple[int, ...]) -> None:
    """`expected`: it has served, and has asked."""
    if not sys.platform.startswith("linux"):
        pytest.skip("what a process has loaded is read from /proc")
    statuses = [daemon.status() for daemon in swarm]
    loaded = [Path(f"/proc/{status.pid}/maps").read_text() for status in statuses if status is not None]
    assert [sorted(set(re.findall(r"lib(?:torch\w*|llama)(?=\.so)", maps))) for maps in loaded] == [["libllama"]] * 4


def test_vectors_and_scored_prompts_are_the_same_for_every_asker(swarm: list[Daemon]) -> None:
    found = []
    for daemon in (swarm[0], swarm[2]):
        status = daemon.status()
        assert status is not None
        with OpenAI(base_url=f"{status.api.url}/v1", api_key="none") as client:
            vectors = client.embeddings.create(model=DEFAULT, input=[QUESTION, "Rain falls."]).data
            scored = client.completions.create(model=DEFAULT, prompt=QUESTION, echo=True, logprobs=2, max_tokens=0)
        assert scored.choices[0].text == QUESTION
        assert scored.choices[0].logprobs is not None
        found.append(([vector.embedding for vector in vectors], scored.choices[0].logprobs.token_logprobs))
    assert found[0] == found[1]
    with swarm[2].client() as client:
        assert "embedded" in {account.outcome for account in client.requests()}


def test_openai_client_gets_the_same_answer_at_once_and_in_pieces(swarm: list[Daemon]) -> None:
    status = swarm[0].status()
    assert status is not None
    with OpenAI(base_url=f"{status.api.url}/v1", api_key="none") as client:
        question = [{"role": "user", "content": QUESTION}]
        whole = client.chat.completions.create(model=DEFAULT, messages=question, temperature=0, max_tokens=24)
        with client.chat.completions.create(
            model=DEFAULT, messages=question, temperature=0, max_tokens=24, stream=True
        ) as chunks:
            pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(pieces) > 10
    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24


def test_eight_at_once_get_what_each_gets_alone(swarm: list[Daemon]) -> None:
    """Greedy and by seed; half of them wait for a slot meanwhile."""
    status = swarm[0].status()
    assert status is not None
    asked = [{"temperature": 0.0}, {"temperature": 0.9, "seed": 7}] * 4

    def answer(client: OpenAI, index: int) -> str | None:
        question = [{"role": "user", "content": f"Tell me about the number {index // 2}."}]
        whole = client.chat.completions.create(model=DEFAULT, messages=question, max_tokens=20, **asked[index])  # pyright: ignore
        return whole.choices[0].message.content

    with OpenAI(base_url=f"{status.api.url}/v1", api_key="none", max_retries=0) as client:
        alone = [answer(client, index) for index in range(8)]
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda index: answer(client, index), range(8)))
    assert together == alone


def test_explain_tells_where_a_token_s_time_went(swarm: list[Daemon], expected: tuple[int, ...]) -> None:
    _, done = _ask(swarm[0])
    told = swarm[0].run("explain", "last")
    assert told.returncode == 0, told.stderr
    assert "slowest hop: " in told.stdout
    with swarm[0].client() as client:
        account = client.request("last")
    assert (account.outcome, account.answer_tokens) == (done.reason, len(expected))
    assert [f"{hop.span}@{hop.peer_id}" for hop in account.hops] == list(done.route)
    assert all(hop.measured is not None and hop.measured.compute_ms > 0 for hop in account.hops)
    assert 0 < account.measured_ms < 1000 / done.tokens_per_s * 1.5
    assert "Why is the sky" not in json.dumps(account.to_json())


def test_every_peer_knows_how_far_the_others_are(swarm: list[Daemon]) -> None:
    with swarm[2].client() as client:
        peers = client.peers()
    assert len(peers) == len(swarm)
    assert all(peer.rtt_ms is not None for peer in peers)


def test_answer_survives_a_hop_that_is_killed(swarm: list[Daemon], expected: tuple[int, ...]) -> None:
    def kill_the_middle() -> None:
        lost = next(swarm[index] for index in MIDDLE if _sessions(swarm[index]))
        lost.kill()

    _, done = _ask(swarm[0], after_pieces=4, then=kill_the_middle)
    assert done.recoveries > 0
    assert done.tokens == expected


def test_second_start_downloads_nothing(swarm: list[Daemon], expected: tuple[int, ...]) -> None:
    lost = next(swarm[index] for index in MIDDLE if swarm[index].process.poll() is not None)
    started = time.monotonic()
    lost.start()
    status = lost.wait_until_serving()
    print(f"process start to serving: {time.monotonic() - started:.1f} s (on an idle machine at most 8 s)")
    assert status.contribution.weights_bytes_downloaded == 0
    assert _ask(lost)[1].tokens == expected


def test_dead_bootstrap_does_not_stop_a_daemon_that_then_joins_by_address(
    swarm: list[Daemon], home: Path, expected: tuple[int, ...]
) -> None:
    alone = Daemon(
        home / "alone",
        {
            **swarm[0].settings,
            "SWARM_MDNS": "false",
            "SWARM_BOOTSTRAP": "127.0.0.1:9",  # the discard service, which nobody runs
            "CONTRIBUTION_ENABLED": "false",
        },
    )
    try:
        status = alone.wait(lambda status: status.lifecycle.name == "idle" and status.port > 0)
        assert status.peers == 0
        entry = swarm[0].status()
        assert entry is not None
        joined = alone.run("join", f"127.0.0.1:{entry.port}")
        assert joined.returncode == 0, joined.stderr
        alone.wait(lambda status: status.peers == len(swarm))
        assert _ask(alone)[1].tokens == expected
    finally:
        alone.process.send_signal(signal.SIGTERM)
        assert alone.process.wait(20) == 0


def test_down_ends_a_daemon_and_leaves_nothing(swarm: list[Daemon], home: Path) -> None:
    for daemon in swarm:
        down = daemon.run("down")
        assert down.returncode == 0, down.stderr
        assert daemon.process.wait(5) == 0
        assert daemon.run("status").returncode == 3
    assert processes_of(home, within_s=5) == []


def _ask(daemon: Daemon, after_pieces: int = 0, then: Callable[[], None] = lambda: None) -> tuple[str, ChatDone]:
    """The answer to the question, greedy; `then` is called behind so many pieces of it."""
    text = ""
    with (
        daemon.client() as client,
        closing(
            client.chat(
                DEFAULT,
                [ChatMessage("user", QUESTION)],
                options={"temperature": 0, "max_tokens": 96},
                token_ids=True,
            )
        ) as pieces,
    ):
        for number, piece in enumerate(pieces, 1):
            if isinstance(piece, ChatDone):
                return text, piece
            text += piece
            if number == after_pieces:
                then()
    raise AssertionError(f"the answer broke off behind {text!r}")


def _sessions(daemon: Daemon) -> int:
    status = daemon.status()
    return status.contribution.slots_used if status else 0
