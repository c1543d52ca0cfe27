"""A tensor-parallel group as one engine: the lead's `GroupSpan`, and `follow`, the loop of every other member.

The lead is a `SpanEngine` towards its scheduler. It says every call to the members, in order and over the channels of
the exchange, and makes it on its own slice too. A step needs no answers: its sums need everybody, so a lead that has a
result knows that all members computed it. Whatever fails anywhere is the end of the group, for all: a member that stops
closes its channels, and the others meet that in their next exchange or command.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from peerllm.engine.exchange import Exchange
from peerllm.engine.group_commands import (
    Close,
    Command,
    Dissolve,
    Fork,
    Open,
    Rewind,
    Step,
    decode,
    encode,
    most_bytes,
)
from peerllm.engine.slice_engine import SliceEngine
from peerllm.engine.slots import Slots
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.errors import EngineError, GroupBroken

log = logging.getLogger(__name__)

T = TypeVar("T")

ASSEMBLE_S = 10.0
"""For the members' answers: they have loaded their slices and only say what they hold."""

_TERMS_BYTES = 4096


class GroupSpan:
    """The lead's engine; belongs to one thread, but for `abandon`."""

    def __init__(self, engine: SliceEngine, exchange: Exchange, hidden: int) -> None:
        self._engine = engine
        self._exchange = exchange
        self._slots = Slots(engine.info, hidden)
        self._failed: str | None = None

    @classmethod
    def assemble(
        cls, engine: SliceEngine, exchange: Exchange, hidden: int, *, timeout_s: float = ASSEMBLE_S
    ) -> GroupSpan:
        """Agree with every member, who runs `follow`, on what is served; `hidden` is the model's D.

        Raises:
            GroupBroken: a member is gone, or holds something else; the channels are closed.
        """
        terms = _terms(engine, exchange, hidden)
        try:
            for member in exchange.others:
                exchange.send(member, terms)
            for member in exchange.others:
                _compare(member, terms, exchange.receive(member, most_bytes=_TERMS_BYTES, timeout_s=timeout_s))
        except GroupBroken:
            exchange.close()
            raise
        engine.join(exchange)
        return cls(engine, exchange, hidden)

    @property
    def info(self) -> EngineInfo:
        """Of the group; weights and cache are the lead's own."""
        return self._engine.info

    @property
    def exchange(self) -> Exchange:
        return self._exchange

    def open(self) -> int:
        slot = self._slots.open()
        self._everywhere(Open(slot), self._engine.open)
        return slot

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        self._slots.check(batch)
        for rows in batch:
            if rows.enter != self.info.span.start:
                raise EngineError(f"a group enters span {self.info.span} at its start, not at block {rows.enter}")
        results = self._everywhere(Step(batch), lambda: self._engine.step(batch))
        self._slots.advance(batch)
        return results

    def fork(self, source: int, to: int, into: int) -> None:
        self._slots.fork(source, to, into)
        self._everywhere(Fork(source, to, into), lambda: self._engine.fork(source, to, into))

    def rewind(self, slot: int, to: int) -> None:
        self._slots.rewind(slot, to)
        self._everywhere(Rewind(slot, to), lambda: self._engine.rewind(slot, to))

    def close(self, slot: int) -> None:
        """Sessions may be closed behind a group that is gone."""
        self._slots.close(slot)
        if self._failed is None:
            self._everywhere(Close(slot), lambda: self._engine.close(slot))

    def shutdown(self) -> None:
        """Dissolve the group and free the own slice."""
        if self._failed is None:
            try:
                self._tell(Dissolve())
            except GroupBroken as error:
                log.debug("a member was gone before the group was dissolved: %s", error)
            self._failed = "it was dissolved"
        self._exchange.close()
        self._engine.shutdown()

    def check(self) -> None:
        """Between two steps: raise `GroupBroken` if a member has gone since the last one."""
        self._refuse_if_failed()
        self._guarded(self._exchange.check_idle)

    def abandon(self) -> None:
        """From any thread: a member is known to be gone, so let no step wait for it."""
        self._exchange.shut()

    def _everywhere(self, command: Command, here: Callable[[], T]) -> T:
        self._refuse_if_failed()

        def work() -> T:
            self._tell(command)
            return here()

        return self._guarded(work)

    def _tell(self, command: Command) -> None:
        encoded = encode(command)
        for member in self._exchange.others:
            self._exchange.send(member, encoded)

    def _guarded(self, work: Callable[[], T]) -> T:
        """A failure of any kind leaves members that are not in the same state."""
        try:
            return work()
        except Exception as error:
            self._failed = str(error)
            self._exchange.close()
            if isinstance(error, GroupBroken):
                raise
            raise GroupBroken(f"the group's lead failed: {error}") from error

    def _refuse_if_failed(self) -> None:
        if self._failed is not None:
            raise GroupBroken(f"the group is no more: {self._failed}")


def follow(engine: SliceEngine, exchange: Exchange, hidden: int, *, lead: int = 0) -> None:
    """Be a member: do what the lead says until it dissolves the group. Blocks; belongs on a thread of its own.

    `exchange.shut` from another thread ends it. The channels are closed when this returns or raises; the slice is not.

    Raises:
        GroupBroken: the lead is gone, or a member is, or this one failed.
    """
    info = engine.info
    most = most_bytes(info.slots, info.context_tokens, hidden)
    terms = _terms(engine, exchange, hidden)
    try:
        proposed = exchange.receive(lead, most_bytes=_TERMS_BYTES, timeout_s=None)
        exchange.send(lead, terms)
        _compare(lead, terms, proposed)
        engine.join(exchange)
        while True:
            command = decode(exchange.receive(lead, most_bytes=most, timeout_s=None), hidden)
            if isinstance(command, Dissolve):
                return
            _obey(engine, command)
    except GroupBroken:
        raise
    except EngineError as error:
        raise GroupBroken(f"this member of the group failed: {error}") from error
    finally:
        exchange.close()


def _obey(engine: SliceEngine, command: Command) -> None:
    match command:
        case Open(slot):
            found = engine.open()
            if found != slot:
                raise GroupBroken(f"the lead opened slot {slot} where this member has {found}")
        case Step(batch):
            engine.step(batch)
        case Rewind(slot, to):
            engine.rewind(slot, to)
        case Fork(source, to, into):
            engine.fork(source, to, into)
        case Close(slot):
            engine.close(slot)
        case Dissolve():
            pass


def _terms(engine: SliceEngine, exchange: Exchange, hidden: int) -> bytes:
    """What must be the same on all members for their steps to be the same."""
    info = engine.info
    terms: dict[str, Any] = {
        "engine": info.engine,
        "dtype": info.dtype,
        "span": str(info.span),
        "slots": info.slots,
        "context_tokens": info.context_tokens,
        "hidden": hidden,
        "members": exchange.members,
        "form": exchange.form,
        "values": exchange.capacity,
    }
    return json.dumps(terms).encode()


def _compare(member: int, own: bytes, theirs: bytes) -> None:
    if own != theirs:
        raise GroupBroken(f"member {member} says {theirs[:300]!r} where this one has {own!r}")
