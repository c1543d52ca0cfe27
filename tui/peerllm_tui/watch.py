"""Look at the daemon every few seconds, and as soon as it tells of a change, for as long as somebody is looking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from peerllm.errors import NotRunning, PeerllmError
from peerllm_tui.daemon import Daemon

if TYPE_CHECKING:
    from peerllm.local.client import LocalClient

T = TypeVar("T")

POLL_S = 3.0
"""Round trips and what spot checks find come without an event."""

RETRY_S = 1.0
CALM_S = 0.3
"""Downloads tell of their progress many times a second; nobody can read that fast."""

_CONNECT_S = 10.0
_SILENCE_S = 60.0
"""Longer than the server's keep-alive comments are apart."""


class HasDaemon(Protocol):
    """An app whose screens talk to a daemon."""

    @property
    def daemon(self) -> Daemon: ...


class Watch(Generic[T]):
    """`look` is called with a client on a thread, `show` on the loop with what came of it."""

    def __init__(
        self, daemon: Daemon, look: Callable[[LocalClient], T], show: Callable[[T | PeerllmError], None]
    ) -> None:
        self._daemon = daemon
        self._look = look
        self._show = show
        self._changed = asyncio.Event()

    def hasten(self) -> None:
        """Look now: something is known to have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. A daemon that is away is one more thing to show; it is found again when it is back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            self._changed.clear()
            seen = await asyncio.to_thread(self._seen)
            self._show(seen)
            await asyncio.sleep(CALM_S)
            try:
                async with asyncio.timeout(RETRY_S if isinstance(seen, PeerllmError) else POLL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _seen(self) -> T | PeerllmError:
        try:
            with self._daemon.client() as client:
                return self._look(client)
        except PeerllmError as error:
            return error

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(_changes(self._daemon)) as changes:
                    async for _ in changes:
                        self._changed.set()
            except NotRunning:
                pass  # told by the next look
            self._changed.set()
            await asyncio.sleep(RETRY_S)


async def _changes(daemon: Daemon) -> AsyncGenerator[str]:
    """A line for every event of the daemon, until it ends; raises `NotRunning`.

    `LocalClient.events` would do, were there a way to wake a thread that waits in it when its screen closes.
    """
    import httpx

    from peerllm.local.rendezvous import find_daemon

    address, token = await asyncio.to_thread(find_daemon, daemon.locations)
    timeout = httpx.Timeout(_CONNECT_S, read=_SILENCE_S)
    headers = {"Authorization": f"Bearer {token}"}
    # no certificates to load for plain HTTP, and no proxy from the environment for loopback traffic
    async with httpx.AsyncClient(headers=headers, timeout=timeout, verify=False, trust_env=False) as http:
        try:
            async with http.stream("GET", f"{address.url}/control/events") as response:
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield line
        except httpx.TransportError as error:
            raise NotRunning(f"the daemon at {address.url} does not answer ({type(error).__name__})") from error
