"""Answers in the words of OpenAI's completions, chat or text: one object, or chunks of one."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request, Response

from peerllm.api.answering import Answering
from peerllm.api.event_stream import comment, frame
from peerllm.api.hang_up import items_of
from peerllm.api.request_fields import AnswerFields
from peerllm.errors import GenerationError
from peerllm.generation.answer import AnswerEvent, Delta, Doing, Finished
from peerllm.generation.answer_request import AnswerRequest


class Choice(Protocol):
    """One of the answers of a completion, while it comes."""

    def chunks(self, event: AnswerEvent) -> Iterable[dict[str, Any]]:
        """What one more event of this answer adds to a stream."""
        ...

    def whole(self) -> dict[str, Any]:
        """The answer with everything that has come."""
        ...


@dataclass(frozen=True)
class CompletionHead:
    """What every object of one completion has in common; `kinds` are the names of the whole and of a chunk."""

    model: str
    id: str
    kinds: tuple[str, str]
    include_usage: bool = False
    token_ids: bool = False
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, body: AnswerFields, prefix: str, kinds: tuple[str, str], *, token_ids: bool) -> CompletionHead:
        """The head of the answer to that body, with an id of its own."""
        return cls(
            body.model,
            f"{prefix}-{secrets.token_hex(12)}",
            kinds,
            include_usage=body.include_usage,
            token_ids=token_ids,
            more={"service_tier": "default"} if body.service_tier else {},
        )

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._object(self.kinds[0], choices)

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._object(self.kinds[1], choices)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices} | dict(self.more)


class Completion:
    """One completion of several choices, the `per_prompt` first of which answer the first prompt, and so on."""

    def __init__(self, head: CompletionHead, choices: Sequence[Choice], per_prompt: int) -> None:
        self._head = head
        self._choices = choices
        self._per_prompt = per_prompt
        self._tokens: list[list[int]] = [[] for _ in choices]
        self._ends: dict[int, Finished] = {}

    async def whole(self, answer: AsyncIterator[tuple[int, AnswerEvent]]) -> dict[str, Any]:
        """The answers as one object."""
        async with aclosing(items_of(answer)) as items:
            async for index, event in items:
                for _ in self._fed(index, event):
                    pass
        self._check_ends()
        return self._head.whole([choice.whole() for choice in self._choices]) | self._account()

    async def chunks(
        self, answer: AsyncIterator[tuple[int, AnswerEvent]], doing: Doing | None = None
    ) -> AsyncGenerator[bytes]:
        """The answers as server-sent chunks, the usage last, then ``[DONE]``.

        Before all that a comment says who sees the prompt's hidden states, if anybody else does.
        """
        usage = {"usage": None} if self._head.include_usage else {}
        async with aclosing(items_of(answer)) as items:
            first = True
            async for index, event in items:
                if first and doing is not None and doing.note:
                    yield comment(doing.note)
                first = False
                for choice in self._fed(index, event):
                    yield frame(self._head.chunk([choice]) | usage | self._dropped(event))
        self._check_ends()
        if self._head.include_usage:
            yield frame(self._head.chunk([]) | self._account())
        yield frame("[DONE]")

    async def response(
        self, answering: Answering, http: Request, requests: Sequence[AnswerRequest], body: AnswerFields
    ) -> Response:
        """What answers that body, whose answers are these requests: a stream or one object."""
        headers = {"X-Request-Id": self._head.id}
        events = answering.events(http, requests, user=body.client)
        if body.stream:
            return answering.stream(self.chunks(events, requests[0].doing), requests[0], headers=headers)
        return await answering.whole(http, self.whole(events), headers=headers)

    def _fed(self, index: int, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        if isinstance(event, Delta):
            self._tokens[index].append(event.token)
        elif isinstance(event, Finished):
            self._ends[index] = event
        yield from self._choices[index].chunks(event)

    def _check_ends(self) -> None:
        if len(self._ends) < len(self._choices):
            raise GenerationError("the answer ended without an end")

    def _dropped(self, event: AnswerEvent) -> dict[str, Any]:
        """A prompt that was cut is told of also where no usage was asked for."""
        if self._head.include_usage or not isinstance(event, Finished) or not event.dropped_tokens:
            return {}
        return {"peerllm": {"dropped_tokens": event.dropped_tokens}}

    def _account(self) -> dict[str, Any]:
        """OpenAI's usage, and beside it what only a swarm can tell."""
        ends = [end for _, end in sorted(self._ends.items())]
        tokens = [token for of_choice in self._tokens for token in of_choice]
        told = swarm_account(ends) | ({"tokens": tokens} if self._head.token_ids else {})
        return {"usage": usage(ends, self._per_prompt), "peerllm": told}


def usage(ends: Sequence[Finished], per_prompt: int = 1) -> dict[str, Any]:
    """What was read and written; a prompt with several answers counts once, as did its computation."""
    prompts = [ends[at : at + per_prompt] for at in range(0, len(ends), per_prompt)]
    read = sum(answers[0].prompt_tokens for answers in prompts)
    written = sum(end.completion_tokens for end in ends)
    cached = sum(min(end.cached_tokens for end in answers) for answers in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(end.accepted_prediction_tokens for end in ends),
            "rejected_prediction_tokens": sum(end.rejected_prediction_tokens for end in ends),
        },
    }


def swarm_account(ends: Sequence[Finished]) -> dict[str, Any]:
    """Through whom the answers went and how fast; of several the first token's time and the speed of all together."""
    return {
        "route": list(dict.fromkeys(hop for end in ends for hop in end.route)),
        "ttft_s": round(min(end.ttft_s for end in ends), 6),
        "tokens_per_s": round(sum(end.tokens_per_s for end in ends), 3),
        "recoveries": sum(end.recoveries for end in ends),
        "dropped_tokens": max(end.dropped_tokens for end in ends),
        "rounds": sum(end.rounds for end in ends),
        "drafted_tokens": sum(end.drafted_tokens for end in ends),
        "accepted_tokens": sum(end.accepted_tokens for end in ends),
    }
