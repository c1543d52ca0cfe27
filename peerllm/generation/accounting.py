"""One answer's account while it is being made: which routes it took, what they promised, what they kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopBusy, HopLost
from peerllm.generation.answer import AnswerEvent, Delta, Finished
from peerllm.generation.chain import Chain
from peerllm.generation.kept_sessions import KeptSession
from peerllm.generation.rounds import RoundTimes
from peerllm.generation.session import Chains
from peerllm.local.accounts import HopAccount, HopTimes, RequestAccount, RouteChange
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.score import HOP_OVERHEAD_MS
from peerllm_swarm.span import PeerId


class Accounting:
    """Watches one answer's chains and events; `account` is what can be told of it at any time."""

    def __init__(self, request_id: str, model: str, prompt_tokens: int, name_of: Callable[[PeerId], str]) -> None:
        """`name_of` is the name of a peer's machine, for people."""
        self._id = request_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._name_of = name_of
        self._at = time.time()
        self._started = self._first = self._last = time.perf_counter()
        self._tokens = 0
        self._chains: list[Chain] = []
        self._names: dict[PeerId, str] = {}
        self._changes: list[RouteChange] = []
        self._finished: Finished | None = None

    @property
    def is_finished(self) -> bool:
        """Has the answer come to its own end?"""
        return self._finished is not None

    def watched(self, chains: Chains) -> Chains:
        """The same chains, of which this account takes note."""

        @asynccontextmanager
        async def open_chain() -> AsyncIterator[Chain]:
            async with AsyncExitStack() as stack:
                try:
                    chain = await stack.enter_async_context(chains.open())
                except HopBusy:
                    raise
                except HopLost as lost:
                    self._note_lost(lost)
                    raise
                self._note_opened(chain)
                yield chain

        async def mend(chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool) -> None:
            await chains.mend(chain, gone, history, wait)
            self._note_names(chain)

        def lost(hop: HopLost) -> None:
            self._note_lost(hop)
            chains.lost(hop)

        async def resume(hidden: Hidden) -> KeptSession | None:
            kept = await chains.resume(hidden)
            if kept is not None:
                self._note_opened(kept.chain)
            return kept

        return replace(chains, open=open_chain, mend=mend, lost=lost, resume=resume)

    def note(self, event: AnswerEvent) -> None:
        """One more event of the answer."""
        if isinstance(event, Finished):
            self._finished = event
            return
        if not isinstance(event, Delta):
            return
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1

    def account(self, outcome: str = "", error: str = "") -> RequestAccount:
        """`outcome` and `error` are for an answer that did not come to its own end."""
        chain, times = self._telling_chain()
        route = chain.route if chain is not None else None
        links = split_links(route, times, chain.rtt_ms) if route and chain and times else ()
        end = self._finished
        return RequestAccount(
            id=self._id,
            model=self._model,
            at=self._at,
            outcome=end.reason if end else outcome,
            prompt_tokens=self._prompt_tokens,
            answer_tokens=end.completion_tokens if end else self._tokens,
            ttft_s=end.ttft_s if end else self._first - self._started,
            tokens_per_s=end.tokens_per_s if end else self._tokens_per_s,
            predicted_ms=route.predicted_ms if route else 0.0,
            measured_ms=times.round_ms if times else 0.0,
            return_predicted_ms=route.return_ms if route else 0.0,
            return_measured_ms=links[-1] if links else 0.0,
            ends_ms=times.ends_ms if times else 0.0,
            hops=self._hops(chain, times, links) if chain else (),
            rounds=end.rounds if end else 0,
            drafted_tokens=end.drafted_tokens if end else 0,
            accepted_tokens=end.accepted_tokens if end else 0,
            recoveries=end.recoveries if end else len(self._changes),
            changes=tuple(self._changes),
            error=error,
        )

    @property
    def _tokens_per_s(self) -> float:
        return (self._tokens - 1) / (self._last - self._first) if self._tokens > 1 else 0.0

    def _note_opened(self, chain: Chain) -> None:
        self._chains.append(chain)
        self._note_names(chain)

    def _note_names(self, chain: Chain) -> None:
        for hop in chain.route.hops:
            self._names[hop.peer_id] = self._name_of(hop.peer_id)

    def _note_lost(self, lost: HopLost) -> None:
        peer = PeerId(lost.peer_id)
        name = self._names.get(peer) or self._name_of(peer)
        self._changes.append(RouteChange(self._tokens, peer, name, lost.reason))

    def _telling_chain(self) -> tuple[Chain | None, RoundTimes | None]:
        """The last chain through which tokens were decoded, else the last one that stood."""
        for chain in reversed(self._chains):
            times = chain.rounds.medians()
            if times is not None:
                return chain, times
        return (self._chains[-1] if self._chains else None), None

    def _hops(self, chain: Chain, times: RoundTimes | None, links: Sequence[float]) -> tuple[HopAccount, ...]:
        return tuple(
            HopAccount(
                peer_id=hop.peer_id,
                name=self._names[hop.peer_id],
                span=str(hop.span),
                predicted=predicted_times(hop),
                measured=HopTimes(links[at], times.queue_ms[at], times.compute_ms[at]) if times else None,
                input_bytes=chain.input_bytes(at),
            )
            for at, hop in enumerate(chain.route.hops)
        )


def predicted_times(hop: Hop) -> HopTimes:
    """The route's prediction in the parts that are measured: framing belongs to the link, only the queue is waiting."""
    framing_ms = min(HOP_OVERHEAD_MS, hop.wait_ms)
    return HopTimes(hop.link_ms + framing_ms, hop.wait_ms - framing_ms, hop.compute_ms)


def split_links(route: Route, times: RoundTimes, rtt_ms: Mapping[PeerId, float]) -> tuple[float, ...]:
    """What the links of a round took together, as one time per hop and one for the way back.

    Only their sum is measured, and the round trips between the asker and every hop. So the first link and
    the way back get half a round trip each and every hop its usual framing; what is left went over the
    links between hops, in the proportion in which it was predicted.
    """
    first, last = route.hops[0].peer_id, route.hops[-1].peer_id
    between = [0.0] * (len(route.hops) - 1)
    known = [rtt_ms.get(first, 2 * route.hops[0].link_ms) / 2, *between, rtt_ms.get(last, 2 * route.return_ms) / 2]
    framing = [HOP_OVERHEAD_MS] * len(route.hops) + [0.0]
    left = times.links_ms
    shares = [0.0] * len(known)
    for weights in (known, framing):
        taken = min(left, sum(weights))
        shares = _added(shares, weights, taken)
        left -= taken
    inner = [0.0, *(hop.link_ms + HOP_OVERHEAD_MS for hop in route.hops[1:]), 0.0]
    ends = [1.0, *between, 1.0]
    return tuple(_added(shares, inner if between else ends, left))


def _added(shares: Sequence[float], weights: Sequence[float], amount: float) -> list[float]:
    """The shares with `amount` added in proportion to the weights."""
    total = sum(weights)
    return [share + (amount * weight / total if total else 0.0) for share, weight in zip(shares, weights, strict=True)]
