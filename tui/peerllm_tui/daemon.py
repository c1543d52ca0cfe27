"""The daemon that the screens talk to; it may come and go while they are open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peerllm.locations import Locations

if TYPE_CHECKING:
    from peerllm.local.client import LocalClient


@dataclass(frozen=True)
class Daemon:
    """Whatever daemon runs for a home just now. Its calls block: they belong into thread workers."""

    locations: Locations

    def client(self) -> LocalClient:
        """A client, to be closed by the caller; raises `NotRunning`."""
        from peerllm.local.client import LocalClient  # httpx takes 0.1 s, in a thread, when the screen is painted

        return LocalClient.connect(self.locations)
