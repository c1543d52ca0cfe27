"""Look at the daemon whenever it tells of a change, and every few seconds; on two threads of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from peerllm.errors import PeerllmError
from peerllm.locations import Locations
from peerllm_tray.moment import Look

if TYPE_CHECKING:
    from peerllm.local.client import LocalClient

POLL_S = 10.0
"""What was given and used today comes without an event."""

RETRY_S = 2.0
CALM_S = 0.3
"""Downloads tell of their progress many times a second."""

_END_S = 2.0


class Watch:
    """`seen` is called with every look, or with why there is none. A daemon that is away is found when it is back."""

    def __init__(self, locations: Locations, seen: Callable[[Look | PeerllmError], None]) -> None:
        self._locations = locations
        self._seen = seen
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._listening: LocalClient | None = None
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._keep_looking, "tray-look"), (self._keep_listening, "tray-listen"))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hasten(self) -> None:
        """Look now: something is known to have changed."""
        self._changed.set()

    def stop(self) -> None:
        self._ending.set()
        self._changed.set()
        if self._listening is not None:
            self._listening.hang_up()
        for thread in self._threads:
            thread.join(_END_S)

    def _keep_looking(self) -> None:
        from peerllm.local.client import LocalClient  # takes longer than to show the icon, which must not wait for it

        client: LocalClient | None = None
        while not self._ending.is_set():
            self._changed.clear()
            try:
                client = client or LocalClient.connect(self._locations)
                self._seen(Look.through(client))
            except PeerllmError as error:
                self._seen(error)
                if client is not None:
                    client.close()
                client = None
            self._ending.wait(CALM_S)
            self._changed.wait(POLL_S if client is not None else RETRY_S)
        if client is not None:
            client.close()

    def _keep_listening(self) -> None:
        from peerllm.local.client import LocalClient

        while not self._ending.is_set():
            try:
                with LocalClient.connect(self._locations) as client:
                    self._listening = client
                    with contextlib.closing(client.events()) as events:
                        for _ in events:
                            self._changed.set()
            except PeerllmError:
                pass  # told by the next look
            self._changed.set()
            self._ending.wait(RETRY_S)
