"""Slots of sessions that have ended, kept for those that will begin alike; each is given up for whoever needs one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from peerllm.engine.scheduler import StepScheduler
from peerllm.errors import EngineError
from peerllm.serving.places import Places
from peerllm.serving.prefixes import Holding
from peerllm.wire.messages import SessionId, new_session_id

log = logging.getLogger(__name__)

KEEP_S = 600.0
"""After that the next one that begins alike is not expected, and what was asked should be forgotten."""


@dataclass(frozen=True)
class _Kept:
    holding: Holding
    over: asyncio.Event
    ending: asyncio.Task[None]


class KeptPrefixes:
    """Those of one span. In `Places` they are sessions at rest, under ids that nobody else knows."""

    def __init__(self, scheduler: StepScheduler, places: Places, changed: Callable[[], Awaitable[None]]) -> None:
        """`changed` is called when a slot has been given back."""
        self._scheduler = scheduler
        self._places = places
        self._changed = changed
        self._kept: dict[SessionId, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def holdings(self) -> list[Holding]:
        return [kept.holding for kept in self._kept.values()]

    def keep(self, holding: Holding) -> tuple[SessionId, SessionId | None]:
        """Take over an ended session's slot; its id now, and of another one at rest that has to go for it."""
        number, over = new_session_id(), asyncio.Event()
        holding.history.rest()
        self._kept[number] = _Kept(holding, over, asyncio.create_task(self._give_back(number, holding, over)))
        log.info("prefix kept tokens=%d", len(holding.inputs))
        return number, self._places.keep(number, holding.asker)

    def let_go(self, number: SessionId) -> asyncio.Task[None] | None:
        """None if no prefix is kept under that id; what is returned is done when its slot is free."""
        kept = self._kept.get(number)
        if kept is None:
            return None
        self._places.leave(number)
        kept.over.set()
        return kept.ending

    async def _give_back(self, number: SessionId, holding: Holding, over: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_S):
                await over.wait()
        del self._kept[number]
        self._places.leave(number)
        holding.history.forget()
        try:
            with contextlib.suppress(EngineError):  # the span was unloaded meanwhile, slots and all
                await self._scheduler.close(holding.slot)
        finally:
            self._places.end(number, holding.asker)
            await self._changed()
