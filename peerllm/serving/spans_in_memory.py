"""What this machine holds of a model: the span that it serves, and those that it has moved away from."""

from __future__ import annotations

import asyncio

from peerllm.serving.loaded_span import LoadedSpan
from peerllm.serving.memory_return import return_memory


class SpansInMemory:
    """One served span at most; others are there until their last sessions have ended or moved."""

    def __init__(self) -> None:
        self.served: LoadedSpan | None = None
        self._left: set[asyncio.Task[None]] = set()

    def move_to(self, loaded: LoadedSpan, within_s: float) -> None:
        """Serve this one instead; whoever uses the one until now has so long to move."""
        left, self.served = self.served, loaded
        if left is not None:
            leaving = asyncio.create_task(_leave(left, within_s))
            self._left.add(leaving)
            leaving.add_done_callback(self._left.discard)

    async def unload(self) -> None:
        """Free the served span; sessions that still run on it fail."""
        served, self.served = self.served, None
        if served is not None:
            await served.unload()
            del served
            await asyncio.to_thread(return_memory)

    async def cut_off(self) -> None:
        """Free those that were left at once."""
        leaving = list(self._left)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    async def left(self) -> None:
        """Return when those that were left are free."""
        await asyncio.gather(*self._left)


async def _leave(span: LoadedSpan, within_s: float) -> None:
    try:
        await span.handler.drain(within_s)
    finally:
        await span.unload()
        await asyncio.to_thread(return_memory)
