"""The token loop: prompt in, parts of an answer out, token by token through a route of peers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from peerllm.generation.answer import AnswerEvent, Content, Delta, Finished, Part
from peerllm.generation.answer_text import AnswerText
from peerllm.generation.constraint import Constraint
from peerllm.generation.drafting.drafter import Drafting
from peerllm.generation.ends_thread import Choosing, EndsThread
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.generation.scoring import prompt_scored, scored
from peerllm.generation.session import Chains, Session, open_session
from peerllm.generation.speculation import RoundCounts, decoded
from peerllm.model.tokenizer import Tokenizer
from peerllm.wire.messages import Want


@dataclass(frozen=True)
class GenerationRequest:
    """A tokenized prompt and how to go on from it; the other fields are those of `AnswerRequest`."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    top_logprobs: int | None = None
    score_prompt: bool = False
    dropped_tokens: int = 0


async def generate(
    request: GenerationRequest,
    ends: EndsThread,
    tokenizer: Tokenizer,
    chains: Chains,
    text: AnswerText,
    constraint: Constraint | None = None,
    drafting: Drafting | None = None,
) -> AsyncGenerator[AnswerEvent]:
    """Tokens as they come, then `Finished`. Closing the iterator frees the route at once.

    With `drafting` the tokens are the same, but a round through the route may bring several.
    """
    clock, counts = _Clock(), RoundCounts()
    choosing = Choosing(
        Sampler(request.sampling), list(request.prompt), constraint, request.top_logprobs, tokenizer.eos_ids
    )
    async with _closing(drafting), open_session(chains) as session:
        rows = await session.advance(await ends.embed(request.prompt), _wanted(request))
        if request.score_prompt:
            yield await prompt_scored(request.prompt, rows, ends, tokenizer, request.top_logprobs or 0)
        reason, ending, shown = "length", None, 0
        async with aclosing(
            decoded(rows[-1:], session, ends, choosing, drafting, request.max_tokens, counts)
        ) as tokens:
            async for next_token in tokens:
                clock.tick()
                if next_token.token in tokenizer.eos_ids:
                    reason, ending = "stop", next_token.scores
                    break
                shown += 1
                parts = text.feed(next_token.token)
                yield Delta(_content(parts), next_token.token, parts, *scored(next_token.scores, tokenizer))
                if text.stopped or next_token.completes:
                    reason = "stop"
                    break
        score, alternatives = scored(ending, tokenizer)
        end = _finished(reason, text, clock, request, session, shown)
        yield replace(
            end,
            score=score,
            alternatives=alternatives,
            rounds=counts.rounds,
            drafted_tokens=counts.drafted,
            accepted_tokens=counts.accepted,
        )


class _Clock:
    """Time to first token, and tokens per second after it."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first = self._last = self._start
        self.tokens = 0

    def tick(self) -> None:
        self._last = time.perf_counter()
        if not self.tokens:
            self._first = self._last
        self.tokens += 1

    @property
    def ttft_s(self) -> float:
        return self._first - self._start

    @property
    def tokens_per_s(self) -> float:
        return (self.tokens - 1) / (self._last - self._first) if self.tokens > 1 else 0.0


def _closing(drafting: Drafting | None) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if drafting is None else aclosing(drafting.drafter)


def _wanted(request: GenerationRequest) -> Want:
    return Want.ALL if request.score_prompt else Want.LAST


def _content(parts: tuple[Part, ...]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


def _finished(
    reason: str, text: AnswerText, clock: _Clock, request: GenerationRequest, session: Session, tokens: int
) -> Finished:
    """`tokens` is how many the answer has."""
    route = session.chain.route.hops if session.chain else ()
    parts = text.flush()
    return Finished(
        reason="tool_calls" if text.called and reason == "stop" else reason,
        prompt_tokens=len(request.prompt),
        completion_tokens=tokens,
        ttft_s=clock.ttft_s,
        tokens_per_s=clock.tokens_per_s,
        route=tuple(f"{hop.span}@{hop.peer_id}" for hop in route),
        recoveries=session.recoveries,
        text=_content(parts),
        parts=parts,
        cached_tokens=session.cached_tokens,
        dropped_tokens=request.dropped_tokens,
    )
