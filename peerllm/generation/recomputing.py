"""The same inputs once more through other peers: a session of one hop at each, whose rows all come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopLost, WireError
from peerllm.generation.hop_link import HopLink, Said, close_links, open_links
from peerllm.generation.usage import Usage
from peerllm.giving.books import Books
from peerllm.wire.chunks import chunks_of
from peerllm.wire.messages import Message, Open, Step, Want, WireDtype, WireHidden, new_session_id
from peerllm.wire.tensor import from_wire, to_wire
from peerllm.wire.transport import Transport
from peerllm_swarm.chain import Visit
from peerllm_swarm.span import PeerId

CHUNKS_AHEAD = 2
"""Chunks that may be under way: one is computed while the other travels."""


@dataclass(frozen=True)
class Recomputer:
    """Asks for sessions in the way that answers do: `wire_dtype` is theirs, `open_s` the deadline for one to open."""

    transport: Transport
    fingerprint: str
    wire_dtype: WireDtype
    open_s: float
    books: Books | None = None

    async def through(
        self, visits: Sequence[Visit], inputs: Hidden, addresses: Mapping[PeerId, tuple[str, ...]]
    ) -> Hidden:
        """What these peers make of the rows ``[T, D]``, one after the other; the caller sets the deadline.

        Raises:
            HopLost: one of them cannot be reached, refuses, or answers something else than rows.
        """
        rows = inputs
        for visit in visits:
            rows = await self._through(visit, rows, addresses.get(visit.peer_id, ()))
        return rows

    async def _through(self, visit: Visit, inputs: Hidden, addresses: tuple[str, ...]) -> Hidden:
        heard: asyncio.Queue[Said] = asyncio.Queue()
        opening = Open(
            session=new_session_id(),
            fingerprint=self.fingerprint,
            enter=visit.span.start,
            exit=visit.span.end,
            tokens=len(inputs),
            wire_dtype=self.wire_dtype,
            previous=None,
            next=None,
            next_addresses=(),
        )
        wanted = [(visit.peer_id, addresses, opening)]
        links = await open_links(wanted, self.transport, heard, self.open_s, self.books)
        usage = Usage(links.values())
        try:
            began = time.perf_counter()
            rows = await _pushed(links[visit.peer_id], to_wire(inputs, self.wire_dtype), heard, usage)
            usage.answered(time.perf_counter() - began, ())
            return rows
        finally:
            await close_links(links.values())


async def _pushed(link: HopLink, rows: WireHidden, heard: asyncio.Queue[Said], usage: Usage) -> Hidden:
    outputs: list[Hidden] = []
    in_flight = 0
    for number, (first, chunk) in enumerate(chunks_of(rows), start=1):
        if in_flight == CHUNKS_AHEAD:
            outputs.append(_rows_of(link.peer_id, (await heard.get()).what))
            in_flight -= 1
        usage.sent(len(chunk), chunk.shape[1], Want.ALL)
        await link.send(Step(number, first, Want.ALL, chunk))
        in_flight += 1
    for _ in range(in_flight):
        outputs.append(_rows_of(link.peer_id, (await heard.get()).what))
    hidden = np.concatenate(outputs)
    if hidden.shape != rows.shape:
        raise HopLost(link.peer_id, f"made {hidden.shape} of {rows.shape}")
    return hidden


def _rows_of(peer: PeerId, what: Message | WireError) -> Hidden:
    if not isinstance(what, Step):
        raise HopLost(peer, f"answered {what!r:.120} to a step")
    return from_wire(what.hidden)
