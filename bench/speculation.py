"""Tokens per second over distance with speculation on against off: real answers of the embedded model, greedy.

Two peers on this machine behind links that hold every byte for 0, 20 or 80 ms one way, so that a token passes three
such delays. For each distance and text both contenders take turns; the answers must be the same, token for token.

SmolLM2-135M is too small to rename anything: asked to, it copies the code with a few changes of its own, which is
what speculation meets in such answers. The free texts are cut before the model begins to repeat itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import NoReturn

import uvloop

from bench.links import LinkSpeed, slow_links, tcp_port, through
from bench.machine import describe
from bench.peer import LIBP2P, BenchPeer, peer_host, peer_processes, route_through
from bench.speed.subjects import CACHE, Subject, smollm2
from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Hidden
from peerllm.engine.threads import limit_spinning
from peerllm.errors import HistoryLost
from peerllm.generation.answer import Delta, Finished
from peerllm.generation.answer_request import AnswerRequest, ChatPrompt, TextPrompt
from peerllm.generation.answer_text import answer_text
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.drafting.acceptance import Acceptance
from peerllm.generation.drafting.answer_drafter import AnswerDrafter
from peerllm.generation.drafting.drafter import Drafting
from peerllm.generation.drafting.drafts import DraftSettings
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.generate import generate
from peerllm.generation.preparing import prepare
from peerllm.generation.reading import family_behind
from peerllm.generation.sampler import SamplingParams
from peerllm.generation.session import Chains
from peerllm.model.chat_template import ChatTemplate
from peerllm.model.tokenizer import Tokenizer
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport
from peerllm_swarm.span import PeerId

PEERS, CONTEXT_TOKENS = 2, 1024
DELAYS_MS = (0.0, 20.0, 80.0)

ROOM = """- windows are closed
- curtains are open
- lamps work
- heating is off
- towels are clean
- soap is there
- minibar is full
- carpet is clean
- keys are in the box
"""
ROOMS = "Checklist for every room of the hotel.\n\n" + "".join(f"Room {at}:\n{ROOM}\n" for at in (101, 102))
WORDS = """def count_words(text):
    result = {}
    for word in text.split():
        word = word.strip(".,;:!?").lower()
        if not word:
            continue
        result[word] = result.get(word, 0) + 1
    return result


def most_frequent(text, limit):
    result = count_words(text)
    ordered = sorted(result.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:limit]


def print_report(text, limit=10):
    for word, count in most_frequent(text, limit):
        print(f"{word:<20}{count:>6}")
"""
RENAME = (
    "Rename the variable `result` to `counts` in this Python code. Answer with the whole code and nothing else."
    f"\n\n```python\n{WORDS}```"
)
STORY = "Write a short story about a lighthouse keeper who finds a letter in a bottle."
COFFEE = "Tell me about the history of coffee."


@dataclass(frozen=True)
class Kind:
    """What is asked for: at least so many times as fast at 20 and 80 ms, never slower than this at 0 ms."""

    requests: tuple[AnswerRequest, ...]
    must: float
    aim: float
    near: float = 0.0


def _chat(text: str, *, prediction: str = "") -> AnswerRequest:
    return AnswerRequest("", ChatPrompt(({"role": "user", "content": text},)), prediction=prediction)


KINDS = {
    "repeating text": Kind((AnswerRequest("", TextPrompt(ROOMS)),), must=3.0, aim=4.0),
    "code rename": Kind((_chat(RENAME),), must=1.8, aim=2.0),
    "code rename, predicted": Kind((_chat(RENAME, prediction=WORDS),), must=1.8, aim=2.0),
    "free text": Kind((_chat(STORY), _chat(COFFEE)), must=1.0, aim=1.2, near=0.97),
}


@dataclass(frozen=True)
class Answer:
    tokens: tuple[int, ...]
    end: Finished

    @property
    def decode_s(self) -> float:
        return (len(self.tokens) - 1) / self.end.tokens_per_s

    @property
    def accepted_per_round(self) -> float:
        return self.end.accepted_tokens / max(1, self.end.rounds)


@dataclass(frozen=True)
class Row:
    """One kind of text at one distance, over all rounds: medians, and the lowest and highest gain of a round."""

    kind: str
    delay_ms: float
    off: float  # tokens per second
    on: float
    gain: float
    low: float
    high: float
    accepted_per_round: float
    tokens_per_round: float
    drafted: int  # of the last round, and of these accepted
    accepted: int
    must: float
    aim: float

    @property
    def verdict(self) -> str:
        if not self.must:
            return ""
        return "aim met" if self.gain >= self.aim else "met" if self.gain >= self.must else "MISSED"


class Bench:
    """A model's ends here, its blocks with the peers."""

    def __init__(self, subject: Subject, ends: EndsThread, transport: Transport, peers: Sequence[BenchPeer]) -> None:
        self._ends = ends
        self._transport = transport
        self._peers = peers
        self._tokenizer = Tokenizer.of(subject.stored)
        self._template = ChatTemplate.of(subject.stored, self._tokenizer)

    async def row(self, name: str, kind: Kind, delay_ms: float, *, rounds: int, tokens: int) -> Row:
        """Both contenders in every round, the first of which warms up and does not count."""
        gains: list[float] = []
        off: list[list[Answer]] = []
        on: list[list[Answer]] = []
        for turn in range(rounds + 1):
            orders = [(off, False), (on, True)]
            for answers, speculates in orders if turn % 2 else reversed(orders):
                answers.append([await self.answer(asked, tokens, speculates) for asked in kind.requests])
            if [a.tokens for a in off[-1]] != [a.tokens for a in on[-1]]:
                raise AssertionError(f"{name} at {delay_ms:g} ms: speculation changed the answer")
            gains.append(_seconds(off[-1]) / _seconds(on[-1]))
        off, on, gains = off[1:], on[1:], gains[1:]
        return Row(
            name,
            delay_ms,
            off=median(map(_speed, off)),
            on=median(map(_speed, on)),
            gain=median(gains),
            low=min(gains),
            high=max(gains),
            accepted_per_round=median(a.accepted_per_round for answers in on for a in answers),
            tokens_per_round=median((len(a.tokens) - 1) / a.end.rounds for answers in on for a in answers),
            drafted=sum(a.end.drafted_tokens for a in on[-1]),
            accepted=sum(a.end.accepted_tokens for a in on[-1]),
            must=kind.must if delay_ms else kind.near,
            aim=kind.aim if delay_ms else kind.near,
        )

    async def answer(self, asked: AnswerRequest, tokens: int, speculates: bool) -> Answer:
        """One answer, greedy; the drafter knows nothing from earlier ones."""
        asked = replace(asked, sampling=SamplingParams(temperature=0.0), max_tokens=tokens)
        request = prepare(asked, self._tokenizer, self._template, CONTEXT_TOKENS)
        family = family_behind(self._tokenizer, self._template.family, request.prompt)
        text = answer_text(asked, request.prompt, self._tokenizer, family)
        drafting = self._drafting(asked) if speculates else None
        made: list[int] = []
        async with aclosing(
            generate(request, self._ends, self._tokenizer, self._chains(), text, drafting=drafting)
        ) as events:
            async for event in events:
                if isinstance(event, Delta):
                    made.append(event.token)
                elif isinstance(event, Finished):
                    return Answer(tuple(made), event)
        raise RuntimeError("an answer without an end")

    def _drafting(self, asked: AnswerRequest) -> Drafting:
        prediction = self._tokenizer.encode(asked.prediction, add_bos=False) if asked.prediction else ()
        drafter = AnswerDrafter(Acceptance(), prediction=prediction, max_length=DraftSettings().max_length)
        return Drafting(drafter, drafter.plan)

    def _chains(self) -> Chains:
        addresses = {peer.peer_id: peer.addresses for peer in self._peers}
        open_route = partial(
            open_chain,
            route_through(self._peers),
            addresses,
            self._transport,
            tokens=CONTEXT_TOKENS,
            wire_dtype=WireDtype.FLOAT32,
            timings=ChainTimings(step_s=120),
        )
        return Chains(open_route, _no_mending, lambda _: None)


async def measure(
    delays_ms: Sequence[float], kinds: Mapping[str, Kind], *, rounds: int, tokens: int
) -> AsyncGenerator[Row]:
    """A row for each distance and kind, as they come."""
    subject = smollm2()
    for delay_ms in delays_ms:
        async with opened(subject, delay_ms) as bench:
            for name, kind in kinds.items():
                yield await bench.row(name, kind, delay_ms, rounds=rounds, tokens=tokens)


@asynccontextmanager
async def opened(subject: Subject, delay_ms: float) -> AsyncIterator[Bench]:
    """Peers of one thread each, so far away over libp2p: a direct socket would find its way around the slow links."""
    ends = EndsThread(load_ends(subject.stored, engine="llama", threads=1))
    try:
        async with peer_host(LIBP2P) as (transport, _):
            with peer_processes(
                CACHE / "store", subject.path, subject.spans(PEERS), 1, context_tokens=CONTEXT_TOKENS
            ) as peers:
                if not delay_ms:
                    yield Bench(subject, ends, transport, peers)
                    return
                with slow_links([tcp_port(peer.addresses) for peer in peers], LinkSpeed(delay_ms)) as links:
                    far = [
                        replace(peer, addresses=through(port)) for peer, port in zip(peers, links.ports, strict=True)
                    ]
                    yield Bench(subject, ends, transport, far)
    finally:
        await ends.shutdown()


async def _no_mending(chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool) -> NoReturn:
    raise HistoryLost(next(iter(gone)), "the bench has no other peers")


def _seconds(answers: Sequence[Answer]) -> float:
    return sum(answer.decode_s for answer in answers)


def _speed(answers: Sequence[Answer]) -> float:
    return sum(len(answer.tokens) - 1 for answer in answers) / _seconds(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--delays", default=",".join(f"{delay_ms:g}" for delay_ms in DELAYS_MS), metavar="MS,...")
    parser.add_argument("--kinds", default=",".join(KINDS).replace(", predicted", " predicted"), metavar="NAME,...")
    given = parser.parse_args()
    limit_spinning()
    uvloop.run(_report(given))


async def _report(given: argparse.Namespace) -> None:
    asked = given.kinds.split(",")
    kinds = {name: kind for name, kind in KINDS.items() if name.replace(",", "") in asked}
    delays_ms = [float(delay_ms) for delay_ms in given.delays.split(",")]
    if not given.json:
        print(f"{describe()}\n{PEERS} peers, {given.rounds} rounds of up to {given.tokens} tokens\n")
        print(f"{'text':<24}{'delay':>7}{'off':>8}{'on':>8}{'gain':>7}  {'spread':<13}{'accepted/round':>15}  drafted")
    rows: list[Row] = []
    async with aclosing(measure(delays_ms, kinds, rounds=given.rounds, tokens=given.tokens)) as measured:
        async for row in measured:
            rows.append(row)
            if not given.json:
                _print(row)
    if given.json:
        print(json.dumps({"machine": describe(), "rows": [vars(row) for row in rows]}))


def _print(row: Row) -> None:
    spread = f"{row.low:.2f}..{row.high:.2f}"
    must = f" (must {row.must:.2f}, aim {row.aim:.2f})" if row.must else ""
    print(
        f"{row.kind:<24}{row.delay_ms:>4.0f} ms{row.off:>8.1f}{row.on:>8.1f}{row.gain:>6.2f}x  {spread:<13}"
        f"{row.accepted_per_round:>15.2f}  {row.accepted} of {row.drafted} held  {row.verdict}{must}",
        flush=True,
    )


if __name__ == "__main__":
    main()
