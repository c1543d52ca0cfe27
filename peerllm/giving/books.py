"""A peer's counts and receipts in one swarm: where those of a session begin, on either side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from peerllm.errors import BadReceipt
from peerllm.giving.accounts import Accounts
from peerllm.giving.asking_side import Using
from peerllm.giving.receipts import NO_SWARM, Service
from peerllm.giving.serving_side import Giving, Watts
from peerllm.wire.codec import WIRE_VERSION
from peerllm.wire.messages import Open
from peerllm_swarm.identity import Identity
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)


def _unknown() -> None:
    return None


class Books:
    """Counts for the sessions of one peer in one swarm; what it does for itself is nobody's business."""

    def __init__(
        self,
        identity: Identity,
        accounts: Accounts,
        *,
        swarm: str = NO_SWARM,
        clock: Callable[[], float] = time.time,
        watts: Watts = _unknown,
    ) -> None:
        self._identity = identity
        self._accounts = accounts
        self._swarm = swarm
        self._clock = clock
        self._watts = watts

    def giving(self, asker: PeerId, opened: Open) -> Giving | None:
        """For a session that the asker has opened here."""
        service = self._service(self._identity.peer_id, asker, opened)
        if service is None:
            return None
        return Giving(service, self._identity.sign, self._accounts, self._clock, self._watts)

    def using(self, server: PeerId, opened: Open) -> Using | None:
        """For a session that this peer has opened there."""
        service = self._service(server, self._identity.peer_id, opened)
        if service is None:
            return None
        return Using(service, self._identity.sign, self._accounts, self._clock)

    def _service(self, server: PeerId, asker: PeerId, opened: Open) -> Service | None:
        """None if there is nothing to sign for, or nobody who could."""
        if server == asker:
            return None
        try:
            return Service(
                server,
                asker,
                self._swarm,
                opened.session,
                opened.fingerprint,
                opened.enter,
                opened.exit,
                WIRE_VERSION,
            )
        except BadReceipt as error:  # in a public swarm a peer may have a key of another kind
            log.info("session goes uncounted id=%s: %s", opened.session.hex()[:8], error)
            return None
