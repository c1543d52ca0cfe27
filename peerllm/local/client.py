"""A typed client of the daemon's local API, for programs that wait for answers: CLI, tray, TUI workers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from peerllm.errors import BadAnswer, NotRunning
from peerllm.local.accounts import RequestAccount
from peerllm.local.failures import raise_for_failure
from peerllm.local.json_form import from_json
from peerllm.local.lending import GuestStatus, LedgerRow, Limit
from peerllm.local.membership import Invited, KnownSwarm, Member
from peerllm.local.placement import PlacementAccount
from peerllm.local.records import SwarmRecords
from peerllm.local.rendezvous import DaemonAddress, find_daemon
from peerllm.local.schema import Event, PeerInfo, Status, SwarmInfo
from peerllm.local.sse import COMMENT, events_of
from peerllm.locations import Locations

_ANSWER_S = 10.0
_JOIN_S = 30.0
_SILENCE_S = 60.0
"""Longer than the server's keep-alive comments are apart: a stream silent for so long is dead."""


@dataclass(frozen=True)
class ChatMessage:
    role: str  # "system", "user" or "assistant"
    content: str


@dataclass(frozen=True)
class ChatDone:
    """The end of a streamed answer: why, how much, how fast and through whom ("0:12@12D3KooW…")."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    route: tuple[str, ...] = ()
    recoveries: int = 0
    rounds: int = 0
    """Through the route, behind the prompt's."""
    drafted_tokens: int = 0
    """Guessed ahead in these rounds."""
    accepted_tokens: int = 0
    """Of these, in the answer."""
    tokens: tuple[int, ...] = ()
    """Ids of the answer's tokens, if asked for."""
    id: str = ""
    """By which `LocalClient.request` gives its account."""

    @property
    def accepted_per_round(self) -> float:
        """Tokens that a round brought beyond its own; 0 where none was guessed."""
        return self.accepted_tokens / self.rounds if self.rounds else 0.0


class LocalClient:
    """One daemon, asked over loopback HTTP with its control token, by one thread at a time.

    Raises everywhere: `NotRunning` if nothing answers, and the daemon's own errors as the classes they are.
    """

    def __init__(self, address: DaemonAddress, token: str) -> None:
        self.address = address
        # a proxy from the environment must never see loopback traffic and its token
        self._http = httpx.Client(
            base_url=address.url, headers={"Authorization": f"Bearer {token}"}, timeout=_ANSWER_S, trust_env=False
        )
        self._socket: socket.socket | None = None

    @classmethod
    def connect(cls, locations: Locations) -> Self:
        """The client of this home's daemon; raises `NotRunning`."""
        return cls(*find_daemon(locations))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def hang_up(self) -> None:
        """End what another thread waits for at this client: there `NotRunning` is raised, here nothing ever is."""
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def status(self) -> Status:
        return Status.from_json(self._get("/control/status"))

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo.from_json(peer) for peer in _list(self._get("/control/peers"), "peers")]

    def swarm(self) -> SwarmInfo:
        return SwarmInfo.from_json(self._get("/control/swarm"))

    def records(self) -> SwarmRecords:
        """The records in view and what was measured of their owners."""
        return SwarmRecords.from_json(self._get("/peerllm/v1/records"))

    def config(self) -> dict[str, Any]:
        """Section to field to value, as the daemon runs with them; secrets only as set or not."""
        return _object(self._get("/control/config"))

    def models(self) -> list[dict[str, Any]]:
        return _list(self._get("/v1/models"), "data")

    def placement(self) -> PlacementAccount:
        return PlacementAccount.from_json(self._get("/peerllm/v1/placement"))

    def requests(self) -> list[RequestAccount]:
        """The accounts of the last requests, the one that ended last first."""
        answer = self._get("/peerllm/v1/requests")
        return [RequestAccount.from_json(account) for account in _list(answer, "requests")]

    def request(self, name: str) -> RequestAccount:
        """One of them, by its id or a beginning of it, or ``last``, or ``running``; raises `UnknownRequest`."""
        return RequestAccount.from_json(self._get(f"/peerllm/v1/requests/{quote(name, safe='')}"))

    def share(self, on: bool, *, finish: bool = False) -> None:
        """Lend this machine, which is its owner's consent, or stop; with `finish`, once running sessions have ended."""
        self._post("/control/share", {"on": on, "finish": finish})

    def pause(self, until: float) -> None:
        """Lend nothing until a Unix time; 0 ends a pause that the owner asked for."""
        self._post("/control/pause", {"until": until})

    def guest(self) -> GuestStatus:
        """The governor's decision, and what it was made from."""
        return GuestStatus.from_json(self._get("/control/guest"))

    def limits(self) -> list[Limit]:
        """What the owner may change while the daemon runs."""
        return [Limit.from_json(limit) for limit in _list(self._get("/control/limits"), "limits")]

    def set_limits(self, values: Mapping[str, object]) -> None:
        """Setting to value, None for what config.toml says; raises `UsageError`, changing nothing, for a bad one."""
        self._post("/control/limits", {"values": dict(values)})

    def ledger(self, days: int = 1) -> list[LedgerRow]:
        """What was given and used, a row per day and peer, the last day first; 1 is today alone."""
        return [LedgerRow.from_json(row) for row in _list(self._get(f"/control/ledger?days={days}"), "rows")]

    def log(self, lines: int = 50) -> list[str]:
        """The last lines of the daemon's log."""
        answer = _object(self._get(f"/control/log?lines={lines}")).get("lines")
        return [str(line) for line in cast("list[object]", answer)] if isinstance(answer, list) else []

    def join(self, way: str) -> str:
        """Come in by an invitation, or enter by HOST[:PORT]; the swarm's name. Raises `JoinFailed`, `UsageError`."""
        return str(_object(self._post("/control/join", {"address": way}, timeout_s=_JOIN_S)).get("swarm", ""))

    def leave(self) -> str:
        """Forget the way into the swarm, and a swarm joined by invitation; the swarm that the daemon is in then."""
        return str(_object(self._post("/control/leave")).get("swarm", ""))

    def swarms(self) -> list[KnownSwarm]:
        return [KnownSwarm.from_json(swarm) for swarm in _list(self._get("/control/swarms"), "swarms")]

    def create_swarm(self, name: str) -> KnownSwarm:
        """Make a swarm and take part in it."""
        return KnownSwarm.from_json(self._post("/control/swarms", {"name": name}))

    def use_swarm(self, name: str) -> KnownSwarm:
        """Take part in another swarm of this home."""
        return KnownSwarm.from_json(self._post("/control/swarms/use", {"name": name}))

    def invite(self, *, lifetime_s: int = 3600, uses: int = 1, may_issue: bool = False) -> Invited:
        """A token that lets so many machines in; raises `JoinFailed` if this one may not."""
        body = {"lifetime_s": lifetime_s, "uses": uses, "may_issue": may_issue}
        return Invited.from_json(self._post("/control/invite", body))

    def members(self) -> list[Member]:
        return [Member.from_json(member) for member in _list(self._get("/control/members"), "members")]

    def revoke(self, peer_id: str) -> None:
        """Take back a member's certificates; raises `JoinFailed` if this machine may not."""
        self._post("/control/revoke", {"peer_id": peer_id})

    def stop(self) -> None:
        """Ask the daemon to drain and end; returns before it has."""
        self._post("/control/stop")

    def events(self) -> Generator[Event]:
        """Changes as they happen, the present lifecycle state first; ends when the daemon does."""
        with self._stream("GET", "/control/events") as response:
            for event in events_of(response):
                if event.event == COMMENT:
                    continue
                yield Event.from_json(_decoded(event.data))

    def chat(
        self,
        model: str,
        messages: list[ChatMessage],
        *,
        options: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        noted: Callable[[str], None] = lambda _: None,
        reasoned: Callable[[str], None] = lambda _: None,
    ) -> Generator[str | ChatDone]:
        """Pieces of the answer as they come, then `ChatDone`; closing the generator stops the generation.

        Args:
            options: fields of OpenAI's request, such as ``temperature`` or ``max_tokens``.
            token_ids: have `ChatDone.tokens` filled.
            noted: told in a line who will see the prompt's hidden states, and why nothing comes for a while.
            reasoned: told the pieces of the model's reasoning, which is no part of the answer.
        """
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **(options or {}),
        }
        headers = {"X-Peerllm-Token-Ids": "1"} if token_ids else {}
        with self._stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            yield from _chat_pieces(response, noted, reasoned)

    def _get(self, path: str) -> object:
        return self._answer("GET", path)

    def _post(self, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float = _ANSWER_S) -> object:
        return self._answer("POST", path, json=body or {}, timeout=timeout_s)

    def _answer(self, method: str, path: str, **request: Any) -> object:
        with self._reachable():
            response = self._http.request(method, path, **request)
        raise_for_failure(response)
        return _decoded(response.text)

    @contextmanager
    def _stream(self, method: str, path: str, **request: Any) -> Generator[httpx.Response]:
        with (
            self._reachable(),
            self._http.stream(
                method,
                path,
                timeout=httpx.Timeout(_ANSWER_S, read=_SILENCE_S),
                extensions={"trace": self._keep_socket},
                **request,
            ) as response,
        ):
            if not response.is_success:
                response.read()
            raise_for_failure(response)
            yield response

    def _keep_socket(self, name: str, info: Mapping[str, Any]) -> None:
        """Called by httpx at each of its steps. Closing a socket wakes nobody who reads it; shutting it down does."""
        if name == "connection.connect_tcp.complete":
            self._socket = info["return_value"].get_extra_info("socket")

    @contextmanager
    def _reachable(self) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise NotRunning(
                f"the daemon at {self.address.url} does not answer ({type(error).__name__}); "
                "see `peerllm doctor`, or start it with `peerllm up`"
            ) from error


def _chat_pieces(
    response: httpx.Response, noted: Callable[[str], None], reasoned: Callable[[str], None]
) -> Generator[str | ChatDone]:
    reason = ""
    for event in events_of(response):
        if event.event == COMMENT:
            noted(event.data)
            continue
        if event.data == "[DONE]":
            return
        chunk = _object(_decoded(event.data))
        raise_for_failure(response, chunk)
        for choice in _list(chunk, "choices"):
            reason = choice.get("finish_reason") or reason
            delta = _object(choice.get("delta") or {})
            if thought := delta.get("reasoning_content"):
                reasoned(str(thought))
            if text := delta.get("content"):
                yield str(text)
        if usage := chunk.get("usage"):
            told = {
                "reason": reason,
                "id": chunk.get("id", ""),
                **_object(usage),
                **_object(chunk.get("peerllm") or {}),
            }
            yield from_json(ChatDone, told)


def _decoded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadAnswer("the local API answered with something that is no JSON") from error


def _object(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise BadAnswer("the local API answered with something that is no JSON object")
    return cast("dict[str, Any]", data)


def _list(data: object, name: str) -> list[dict[str, Any]]:
    items = _object(data).get(name)
    if not isinstance(items, list):
        raise BadAnswer(f"the local API's answer has no list {name!r}")
    return [_object(item) for item in cast("list[object]", items)]
