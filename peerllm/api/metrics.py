"""``/metrics``: what this daemon does, in Prometheus' format; counts and times alone, nothing of what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from peerllm.api.node_services import NodeServices
from peerllm.api.turns import Turns
from peerllm.errors import UnknownRequest
from peerllm.generation.answer import AnswerEvent, Finished
from peerllm.generation.answer_request import AnswerRequest

_FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_TOKENS_PER_S = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_HOPS = (1, 2, 3, 4, 6, 8, 12, 16)


class Metrics:
    """Of the answers of one daemon, and of its node at the moment of asking."""

    def __init__(self, node: NodeServices, turns: Turns) -> None:
        self._node = node
        self._turns = turns
        self._registry = registry = CollectorRegistry()
        self._answers = Counter(
            "peerllm_answers", "Answers by how they ended, as finish_reason.", ["outcome"], registry=registry
        )
        self._first_token = Histogram(
            "peerllm_time_to_first_token_seconds",
            "From the opening of the route to the first token.",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self._speed = Histogram(
            "peerllm_tokens_per_second",
            "Of one answer, behind its first token.",
            buckets=_TOKENS_PER_S,
            registry=registry,
        )
        self._hops = Histogram("peerllm_hops", "Peers on an answer's route.", buckets=_HOPS, registry=registry)
        self._prompt = Counter("peerllm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter(
            "peerllm_cached_prompt_tokens", "Of these, kept from an earlier answer.", registry=registry
        )
        self._answer = Counter("peerllm_answer_tokens", "Tokens of answers.", registry=registry)
        self._rounds = Counter("peerllm_rounds", "Rounds through routes, behind the prompts'.", registry=registry)
        self._drafted = Counter("peerllm_drafted_tokens", "Tokens guessed ahead in these rounds.", registry=registry)
        self._accepted = Counter("peerllm_accepted_tokens", "Of these, in answers.", registry=registry)
        self._recoveries = Counter("peerllm_recoveries", "Hops replaced within answers.", registry=registry)
        self._bytes = Counter("peerllm_hop_input_bytes", "Hidden states sent into hops, in bytes.", registry=registry)
        self._gauges = {name: Gauge(f"peerllm_{name}", said, registry=registry) for name, said in _GAUGES.items()}
        self._missing = Gauge(
            "peerllm_missing_blocks", "Blocks that nobody serves, by model.", ["model"], registry=registry
        )

    async def watched(
        self, events: AsyncGenerator[tuple[int, AnswerEvent]], requests: Sequence[AnswerRequest]
    ) -> AsyncGenerator[tuple[int, AnswerEvent]]:
        """The same events; takes note of how each answer ends."""
        finished = 0
        try:
            async with aclosing(events):
                async for index, event in events:
                    if isinstance(event, Finished):
                        finished += 1
                        self._note(event, requests[index].id)
                    yield index, event
        except (GeneratorExit, asyncio.CancelledError):
            self._answers.labels("cancelled").inc(len(requests) - finished)
            raise
        except Exception:
            self._answers.labels("failed").inc(len(requests) - finished)
            raise

    def text(self) -> bytes:
        """Everything, as of now."""
        status, records = self._node.status(), self._node.records()
        own = next((record for record in records.records if record.you), None)
        for name, value in {
            "answers_running": self._turns.running,
            "answers_waiting": self._turns.waiting,
            "peers": status.peers,
            "served_sessions": status.contribution.slots_used,
            "free_slots": status.contribution.slots_free,
            "cache_tokens_left": own.cache_tokens_left if own else 0,
            "queue_seconds": own.queue_ms / 1e3 if own else 0,
            "downloaded_weights_bytes": status.contribution.weights_bytes_downloaded,
        }.items():
            self._gauges[name].set(value)
        self._missing.clear()
        for model in self._node.swarm().models:
            self._missing.labels(model.model).set(model.blocks - model.covered)
        return generate_latest(self._registry)

    def _note(self, end: Finished, request_id: str) -> None:
        self._answers.labels(end.reason).inc()
        self._first_token.observe(end.ttft_s)
        if end.tokens_per_s:
            self._speed.observe(end.tokens_per_s)
        self._hops.observe(len(end.route))
        self._prompt.inc(end.prompt_tokens)
        self._cached.inc(end.cached_tokens)
        self._answer.inc(end.completion_tokens)
        self._rounds.inc(end.rounds)
        self._drafted.inc(end.drafted_tokens)
        self._accepted.inc(end.accepted_tokens)
        self._recoveries.inc(end.recoveries)
        self._bytes.inc(self._sent_bytes(request_id))

    def _sent_bytes(self, request_id: str) -> int:
        try:
            return sum(hop.input_bytes for hop in self._node.request(request_id).hops)
        except UnknownRequest:
            return 0


_GAUGES = {
    "answers_running": "Answers under way for programs of this machine.",
    "answers_waiting": "Answers that wait in line for their turn.",
    "peers": "Other peers in view.",
    "served_sessions": "Sessions that this machine serves for the swarm.",
    "free_slots": "Sessions that it could serve besides.",
    "cache_tokens_left": "Tokens of KV cache left for one more session.",
    "queue_seconds": "How long a step waits for this machine's engine.",
    "downloaded_weights_bytes": "Weights fetched since the start.",
}


def metrics_routes(metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})

    return routes
