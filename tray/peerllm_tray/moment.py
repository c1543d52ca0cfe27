"""All that the tray knows at one moment: what its face is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peerllm.errors import UsageError
from peerllm.local.lending import GuestStatus, Limit
from peerllm.local.schema import Status

if TYPE_CHECKING:
    from peerllm.local.client import LocalClient


@dataclass(frozen=True)
class Look:
    """What one look at the daemon brings; `models` are the ids that can be asked for."""

    status: Status
    guest: GuestStatus
    limits: tuple[Limit, ...] = ()
    models: tuple[str, ...] = ()

    @classmethod
    def through(cls, client: LocalClient) -> Look:
        """Ask the daemon for all of it; raises `NotRunning`, `BadAnswer`."""
        status = client.status()
        models = tuple(str(model.get("id", "")) for model in client.models())
        try:
            return cls(status, client.guest(), tuple(client.limits()), models)
        except UsageError:  # a daemon of an earlier version, which has no such routes
            return cls(status, _ungoverned(status), (), models)

    @property
    def lends(self) -> bool:
        """Whether its owner wants this machine lent, now or after a pause."""
        return self.guest.consented and self.status.contribution.enabled

    def paused_at(self, now: float) -> bool:
        return self.guest.paused_until > now


@dataclass(frozen=True)
class Machine:
    """What is lent parts of."""

    ram_bytes: int
    cores: int


@dataclass(frozen=True)
class Moment:
    """A look at the daemon or why there is none (`away`), and what became of the last click (`failure`)."""

    machine: Machine
    now: float = 0.0  # Unix time
    look: Look | None = None
    away: str = ""
    starting: bool = False
    failure: str = ""
    at_login: bool = False


def _ungoverned(status: Status) -> GuestStatus:
    """A daemon without a governor lends when its owner said so, without a pause."""
    return GuestStatus(consented=True, verdict="share" if status.contribution.enabled else "")
