"""What runs here for others: one task per stream that a peer has opened, counted per peer, and ended together."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from peerllm.errors import WireError
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)


class ServedStreams:
    """Shared by all ways that lead to this peer: what a peer may have open counts over all of them."""

    def __init__(self, per_peer: int) -> None:
        self._per_peer = per_peer
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = Counter[PeerId]()
        self._closed = False

    def count(self, peer_id: PeerId) -> int:
        return self._open[peer_id]

    def start(
        self, protocol: str, peer_id: PeerId, work: Callable[[], Coroutine[Any, Any, None]], cut: Callable[[], object]
    ) -> None:
        """Run `work` unless the peer has too many open already; `cut` ends its connection in any case."""
        if self._closed or self._open[peer_id] >= self._per_peer:
            log.debug("stream turned away peer=%s protocol=%s open=%d", peer_id, protocol, self._open[peer_id])
            cut()
            return
        self._open[peer_id] += 1
        task = asyncio.create_task(_logged(protocol, peer_id, work))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, peer_id, cut))

    async def close(self) -> None:
        """Start no more, and end those that run."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[None], peer_id: PeerId, cut: Callable[[], object]) -> None:
        cut()  # for a task that was cancelled before it began
        self._tasks.discard(task)
        self._open -= Counter((peer_id,))  # drops the peer at zero


async def _logged(protocol: str, peer_id: PeerId, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except (WireError, TimeoutError) as error:
        log.info("stream ended peer=%s protocol=%s reason=%s", peer_id, protocol, error)
    except Exception:
        log.exception("handler failed peer=%s protocol=%s", peer_id, protocol)
