"""Tensor-parallel groups within one process: connected channels, members on threads, a lead to be asked."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from peerllm.engine.exchange import Exchange
from peerllm.engine.group_span import GroupSpan, follow
from peerllm.engine.llama_context import GRAPH_ROWS
from peerllm.engine.load import load_slice
from peerllm.engine.sealed_link import Cipher
from peerllm.engine.slice_engine import SliceEngine
from peerllm.errors import GroupBroken
from peerllm.model.slice_gguf import block_shape
from peerllm.model.store import StoredModel
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.slices import slices_for

T = TypeVar("T")

JOIN_S = 30.0


@dataclass(frozen=True)
class KnownChannel:
    """A `Channel` whose keys are in this file."""

    socket: socket.socket
    send_key: bytes
    receive_key: bytes


def connected(members: int, *, tcp: bool = False) -> list[list[KnownChannel | None]]:
    """For each member its channels to all."""
    rows: list[list[KnownChannel | None]] = [[None] * members for _ in range(members)]
    for one in range(members):
        for other in range(one + 1, members):
            near, far = _tcp_pair() if tcp else socket.socketpair()
            rows[one][other] = KnownChannel(near, _key(one, other), _key(other, one))
            rows[other][one] = KnownChannel(far, _key(other, one), _key(one, other))
    return rows


@contextmanager
def exchanges(
    members: int,
    form: SyncForm = SyncForm.FLOAT32,
    *,
    values: int,
    compiled: Sequence[bool] | None = None,
    deadline_s: float = 20.0,
    cipher: Cipher = Cipher.AEGIS256,
) -> Iterator[list[Exchange]]:
    """Every member's side; closed behind the context."""
    made: list[Exchange] = []
    try:
        for own, channels in enumerate(connected(members)):
            use = True if compiled is None else compiled[own]
            made.append(
                Exchange(channels, own, form, values=values, deadline_s=deadline_s, cipher=cipher, use_compiled=use)
            )
        yield made
    finally:
        for exchange in made:
            exchange.close()


def at_once(*works: Callable[[], T]) -> list[T | GroupBroken]:
    """What each gives, or the `GroupBroken` that it raises, all on threads of their own."""
    results: list[T | GroupBroken | None] = [None] * len(works)

    def run(place: int) -> None:
        try:
            results[place] = works[place]()
        except GroupBroken as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
        assert not thread.is_alive()
    return results  # pyright: ignore[reportReturnType]


@dataclass
class LocalGroup:
    """A lead's engine, its members, and what their loops ended with."""

    lead: GroupSpan
    members: list[SliceEngine]
    exchanges: list[Exchange]
    threads: list[threading.Thread]
    ended: dict[int, GroupBroken | None] = field(default_factory=dict[int, "GroupBroken | None"])

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(JOIN_S)
            assert not thread.is_alive()


@contextmanager
def local_group(
    model: StoredModel,
    weights: Sequence[float],
    *,
    form: SyncForm = SyncForm.FLOAT32,
    slots: int = 2,
    context_tokens: int = 256,
    threads: Sequence[int] | None = None,
    compiled: Sequence[bool] | None = None,
    as_member: Callable[[int, SliceEngine], SliceEngine] = lambda _index, engine: engine,
) -> Iterator[LocalGroup]:
    """The whole model's blocks in one group; the first member leads."""
    hidden, span = model.spec.hidden, model.spec.whole
    slices = slices_for(block_shape(model), weights)
    with ExitStack() as stack:
        made = stack.enter_context(exchanges(len(weights), form, values=GRAPH_ROWS * hidden, compiled=compiled))
        engines: list[SliceEngine] = []
        for index in range(len(weights)):
            engine = load_slice(
                model,
                span,
                slices,
                index,
                engine="llama",
                slots=slots,
                context_tokens=context_tokens,
                threads=1 if threads is None else threads[index],
            )
            stack.callback(engine.shutdown)
            engines.append(as_member(index, engine))
        ended: dict[int, GroupBroken | None] = {}
        running = [
            threading.Thread(target=_member, args=(engines[index], made[index], hidden, index, ended))
            for index in range(1, len(weights))
        ]
        for thread in running:
            thread.start()
        lead = GroupSpan.assemble(engines[0], made[0], hidden)
        group = LocalGroup(lead, engines, made, running, ended)
        try:
            yield group
        finally:
            lead.shutdown()
            group.wait()


def _member(
    engine: SliceEngine, exchange: Exchange, hidden: int, index: int, ended: dict[int, GroupBroken | None]
) -> None:
    try:
        follow(engine, exchange, hidden)
        ended[index] = None
    except GroupBroken as error:
        ended[index] = error


def _key(sender: int, receiver: int) -> bytes:
    return hashlib.sha256(f"test {sender} {receiver}".encode()).digest()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _address = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far
