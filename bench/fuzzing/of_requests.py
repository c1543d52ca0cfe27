"""Request bodies, given to the whole app behind its guard."""

from __future__ import annotations

import asyncio
import json
import weakref
from dataclasses import replace
from random import Random
from typing import Any

from bench.fuzzing.mutations import drawn, edited, wild_json
from bench.fuzzing.target import BrokenPromise, Target
from peerllm.api.app import build_app
from peerllm.config import Config
from tests.support.whole_model_node import MODEL, WholeModelNode

_PORT, _TOKEN = 7337, "token-of-the-fuzzer"
_PATHS = ("/v1/chat/completions", "/control/share", "/control/join")
_STATUSES = frozenset((200, 202, 400, 404, 413, 422, 429, 503))


def request_bodies() -> Target:
    """Bodies of every POST that takes one; the first byte says of which. Never a 500."""
    chat = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "name": "me", "content": [{"type": "text", "text": "Hi\u2028"}]},
        ],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 1,
        "seed": 3,
        "logit_bias": {"1": -100, "2": 0.5},
        "stop": ["\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    documents: list[Any] = [chat, {"on": True}, {"address": "desk:7338"}]
    ask = _Asking()

    def structured(rng: Random) -> bytes:
        at = rng.choice((0, 0, 0, 1, 2))
        return bytes((at,)) + json.dumps(edited(documents[at], rng, wild_json)).encode()

    def check(data: bytes) -> bool:
        path = _PATHS[data[0] % len(_PATHS)] if data else _PATHS[0]
        status = ask.status(path, data[1:])
        if status not in _STATUSES:
            raise BrokenPromise(f"{path} answered {status}")
        return status in (200, 202, 503)  # 503: understood, but the stand-in's model is still loading

    samples = [bytes((at,)) + json.dumps(one).encode() for at, one in enumerate(documents)]
    return Target(drawn(samples, structured), check)


class _Asking:
    """The app on a loop of its own, asked without sockets."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)  # a target is dropped, never closed
        self._app = build_app(WholeModelNode(None), replace(Config()), _TOKEN, _PORT)

    def status(self, path: str, body: bytes) -> int:
        return self._loop.run_until_complete(self._status(path, body))

    async def _status(self, path: str, body: bytes) -> int:
        sent: list[Any] = []
        told = False

        async def receive() -> dict[str, Any]:
            nonlocal told
            if told:
                await asyncio.Event().wait()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await asyncio.wait_for(self._app(_scope(path, len(body)), receive, send), 30)
        return next(message["status"] for message in sent if message["type"] == "http.response.start")


def _scope(path: str, length: int) -> dict[str, Any]:
    headers = {
        "host": f"127.0.0.1:{_PORT}",
        "authorization": f"Bearer {_TOKEN}",
        "content-type": "application/json",
        "content-length": str(length),
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", _PORT),
        "state": {},
    }
