"""What the next turn of a chat waits for its first token: computed anew, with the last turn's session kept, or copied.

    ./dev bench prompt-cache [--rounds N] [--json]

Three peers in processes of their own serve the embedded model; asker, router and sessions are the real ones. In each
round a first turn is answered, then the second turn's prompt three times, taking turns in who goes first: anew, with
the kept session, and in a new session whose hops copy what they hold of the first turn, as for another client or
another chat with the same beginning. All must give the same tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from statistics import median, quantiles

import platformdirs
import uvloop

from bench.machine import describe
from bench.peer import BenchPeer, libp2p_host, peer_processes, route_through
from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Hidden
from peerllm.engine.threads import limit_spinning
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.kept_sessions import KeptSession, KeptSessions
from peerllm.generation.read_prompts import Prompt, ReadPrompts
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.generation.session import Chains, open_session
from peerllm.model.store import ModelStore
from peerllm.wire.messages import Sharing, WireDtype
from peerllm.wire.transport import Libp2pTransport
from peerllm_swarm.span import BlockSpan
from tests.support.embedded import embedded_gguf

PROMPT_TOKENS, ANSWER_TOKENS, QUESTION_TOKENS = 1000, 16, 40
"""Of the second turn's prompt; of the first turn's answer and of the new question, which are its end."""

SPANS = ("0:10", "10:20", "20:30")
MUST = 0.3
"""Time to first token of the second turn, as a share of a cold one's."""

WAYS: tuple[str, ...] = ("cold", "session kept", "prefix copied")


@dataclass(frozen=True)
class Result:
    """Times to first token in milliseconds, one per round."""

    machine: str
    cold_ms: list[float]
    kept_ms: list[float]
    copied_ms: list[float]
    cached_tokens: int

    def ratios(self, times_ms: Sequence[float]) -> list[float]:
        return [warm / cold for warm, cold in zip(times_ms, self.cold_ms, strict=True)]


class Asking:
    """One chat over a given route, whose sessions are kept, copied or neither."""

    def __init__(self, transport: Libp2pTransport, peers: Sequence[BenchPeer], ends: EndsThread) -> None:
        self._transport = transport
        self._route = route_through(peers)
        self._addresses = {peer.peer_id: peer.addresses for peer in peers}
        self._ends = ends

    async def answer(
        self, prompt: Sequence[int], kept: KeptSessions, read: ReadPrompts, count: int
    ) -> tuple[list[int], float, int]:
        """Greedy tokens, the time to the first one in milliseconds, and how many of the prompt's were not computed."""
        began, first_ms, tokens = time.perf_counter(), 0.0, list[int]()
        sampler = Sampler(SamplingParams(temperature=0.0))
        known = read.prompt((), WireDtype.FLOAT32, restricted=False)
        async with open_session(self._chains(kept, known, len(prompt) + count)) as session:
            rows = await self._ends.embed(prompt)
            while True:
                hidden = await session.advance(rows)
                chosen = await self._ends.next_token(hidden, sampler, ())
                first_ms = first_ms or (time.perf_counter() - began) * 1e3
                known.been_read()
                tokens.append(chosen.token)
                if len(tokens) == count:
                    return tokens, first_ms, session.cached_tokens
                rows = chosen.embedded

    def _chains(self, kept: KeptSessions, known: Prompt, tokens: int) -> Chains:
        known.route = self._route
        return Chains(
            lambda: open_chain(
                self._route,
                self._addresses,
                self._transport,
                tokens=tokens,
                wire_dtype=WireDtype.FLOAT32,
                timings=ChainTimings(step_s=120),
                beginning=known.beginning,
            ),
            _no_mend,
            lambda lost: None,
            partial(_keep, kept),
            partial(_take, kept, known, tokens),
        )


async def measure(rounds: int) -> Result:
    machine = describe()
    cache = platformdirs.user_cache_path("peerllm", appauthor=False) / "bench" / "store"
    path = embedded_gguf()
    stored = ModelStore(cache).open(str(path))
    ends = EndsThread(load_ends(stored, engine="llama", threads=1))
    random = Random(0)
    try:
        with peer_processes(cache, path, [BlockSpan.parse(span) for span in SPANS], 1) as peers:
            async with libp2p_host() as (transport, _):
                asking = Asking(transport, peers, ends)
                turns = [await _round(asking, random, stored.spec.vocab, turn) for turn in range(rounds + 1)]
    finally:
        await ends.shutdown()
    cold_ms, kept_ms, copied_ms, cached = zip(*turns[1:], strict=True)  # the first one warms up
    return Result(machine, list(cold_ms), list(kept_ms), list(copied_ms), min(cached))


async def _round(asking: Asking, random: Random, vocabulary: int, turn: int) -> tuple[float, float, float, int]:
    none, unread, read = KeptSessions(keep_s=0, at_most=0), ReadPrompts(Sharing.NOBODY), ReadPrompts(Sharing.ASKER)
    async with aclosing(KeptSessions(keep_s=60, at_most=1)) as kept:
        words = [random.randrange(100, vocabulary - 100) for _ in range(PROMPT_TOKENS - ANSWER_TOKENS)]
        prompt = words[:-QUESTION_TOKENS]
        answer, _, _ = await asking.answer(prompt, kept, read, ANSWER_TOKENS)
        second = [*prompt, *answer, *words[-QUESTION_TOKENS:]]
        ways = dict(zip(WAYS, ((none, unread), (kept, unread), (none, read)), strict=True))
        order: list[str] = ["prefix copied", "session kept"]  # behind which its hops would hold the question, too
        order.insert(turn % len(WAYS), "cold")
        found = {way: await asking.answer(second, *ways[way], 8) for way in order}
        if any(tokens != found["cold"][0] for tokens, _, _ in found.values()):
            raise RuntimeError(f"other tokens than those of a cold prompt: {found}")
        cached = min(found[way][2] for way in WAYS[1:])
        return found["cold"][1], found["session kept"][1], found["prefix copied"][1], cached


def _keep(kept: KeptSessions, chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack) -> None:
    kept.keep((), chain, inputs, stack)


async def _take(kept: KeptSessions, known: Prompt, tokens: int, hidden: Hidden) -> KeptSession | None:
    await known.look(hidden)
    return await kept.take((), hidden, tokens, lambda _: True)


async def _no_mend(*_: object) -> None:
    raise RuntimeError("a hop was lost: this round says nothing")


def report(result: Result) -> str:
    return "\n".join(
        (
            result.machine,
            f"SmolLM2-135M Q4_1 through 3 peers, one thread each; {len(result.cold_ms)} rounds; "
            f"{PROMPT_TOKENS} tokens of prompt, {result.cached_tokens} of them held",
            f"{'time to first token, ms':<28}{'median':>9}  middle half",
            _row("cold", result.cold_ms),
            _row("session kept", result.kept_ms),
            _row("prefix copied", result.copied_ms),
            _ratio("kept / cold", result.ratios(result.kept_ms)),
            _ratio("copied / cold", result.ratios(result.copied_ms)),
        )
    )


def _ratio(name: str, ratios: Sequence[float]) -> str:
    met = "met" if median(ratios) <= MUST else "MISSED"
    return f"{name:<28}{median(ratios):>9.3f}  {_spread(ratios, 3)}  {met} (must {MUST})"


def _row(name: str, times: Sequence[float]) -> str:
    return f"{name:<28}{median(times):>9.1f}  {_spread(times, 1)}"


def _spread(values: Sequence[float], digits: int) -> str:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{low:.{digits}f} to {high:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prompt_cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_spinning()
    result = uvloop.run(measure(given.rounds))
    ratios = {"ratio": median(result.ratios(result.kept_ms)), "copied_ratio": median(result.ratios(result.copied_ms))}
    print(json.dumps(asdict(result) | ratios) if given.json else report(result))


if __name__ == "__main__":
    main()
