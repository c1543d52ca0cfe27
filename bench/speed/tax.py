"""What distance costs: 3 peers whose every link takes 0, 5, 20 or 80 ms one way, without speculation.

A token passes four links: to the first hop, to the second, to the third, and back. So it should take what it takes
without delays and four times the delay; whatever it takes beyond that is the split's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial

from bench.links import LinkSpeed, slow_links, tcp_port, through
from bench.peer import LIBP2P, BenchPeer, peer_processes
from bench.speed.asker import asking
from bench.speed.figure import Figure, Samples, Spread, Target
from bench.speed.part import Measured, Run
from bench.speed.subjects import CACHE, Subject, smollm2
from bench.speed.turns import numbers, take_turns

PART = "tax"
PEERS, LINKS = 3, 4
PROMPT_TOKENS = 32
DELAYS_MS = (5.0, 20.0, 80.0)
WITHIN = Target(5.0, 5.0, at_most=True)


async def measure(run: Run) -> Measured:
    """Over libp2p whatever the others use: a direct socket would find its way around the slow links."""
    subject, delays = smollm2(), DELAYS_MS[1:2] if run.quick else DELAYS_MS
    gave_ms: dict[float, float] = {}
    async with AsyncExitStack() as stack:
        contenders: dict[str, Callable[[], Awaitable[float]]] = {}
        for delay_ms in (0.0, *delays):
            asker = await stack.enter_async_context(asking(subject, threads=1, transport=LIBP2P))
            peers = stack.enter_context(_peers(subject))
            if delay_ms:
                ports = [tcp_port(peer.addresses) for peer in peers]
                links = stack.enter_context(slow_links(ports, LinkSpeed(delay_ms)))
                peers = _behind(peers, links.ports)
                gave_ms[delay_ms] = links.rtt_ms / 2
            contenders[_name(delay_ms)] = partial(
                asker.ms_per_token, peers, subject.prompts(1, PROMPT_TOKENS)[0], 12 if delay_ms > 10 else 24
            )
        samples = numbers(await take_turns(contenders, run.effort(rounds=7, budget_s=90)))
    return Measured(
        [_figure(subject, samples, delay_ms, gave_ms[delay_ms]) for delay_ms in delays],
        {subject.name: samples},
        {"one_way_ms": {str(delay_ms): gave for delay_ms, gave in gave_ms.items()}},
    )


def _figure(subject: Subject, samples: Samples, delay_ms: float, link_ms: float) -> Figure:
    name = f"{subject.name}: {PEERS} peers x 1 thread, {delay_ms:g} ms one way per link"
    row = Figure(PART, name, "0 ms and the sum of the links' delays", "%", target=WITHIN)
    try:
        near, far = Spread.of(samples[_name(0.0)]), Spread.of(samples[_name(delay_ms)])
    except ValueError as error:
        return replace(row, remark=str(error))
    predicted = near.median + LINKS * link_ms
    value = Spread.of([excess_percent(took, predicted) for took in samples[_name(delay_ms)]])
    return replace(
        row,
        value=value,
        seen=f"{far.median:.1f} / {near.median:.1f} + {LINKS} x {link_ms:.2f} = {predicted:.1f} ms per token",
    )


def excess_percent(took_ms: float, predicted_ms: float) -> float:
    """Below 0 where it took less."""
    return 100 * (took_ms / predicted_ms - 1)


def _behind(peers: list[BenchPeer], ports: tuple[int, ...]) -> list[BenchPeer]:
    return [replace(peer, addresses=through(port)) for peer, port in zip(peers, ports, strict=True)]


def _peers(subject: Subject) -> AbstractContextManager[list[BenchPeer]]:
    return peer_processes(CACHE / "store", subject.path, subject.spans(PEERS), 1, slots=1)


def _name(delay_ms: float) -> str:
    return f"{delay_ms:g} ms"
