"""Who holds the KV slots of a span, who rests in one, and who gets the next.

A session rests between two turns of a chat. Until its asker comes back its slot counts as free: whoever needs one gets
it, and those that run are never refused anything on its account. Book-keeping alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from peerllm.errors import PeerGone, Refused
from peerllm.serving.admission import Waiting, first_to_go, retry_after_s
from peerllm.wire.messages import RefusalCode, SessionId
from peerllm_swarm.span import PeerId


class Full(Refused):
    """No slot now, but perhaps in so many seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(RefusalCode.NO_SLOT, message)
        self.retry_after_s = retry_after_s


class Places:
    """The slots of one span; times are of a clock that never goes back, in seconds."""

    def __init__(self, slots: int, *, own: PeerId | None = None) -> None:
        """`own` is this machine itself, whose sessions go before all others."""
        self._slots = slots
        self._own = own
        self._held = Counter[PeerId]()  # by asker, those included that are being taken or given back
        self._resting: dict[SessionId, PeerId] = {}  # the one that has rested longest comes first
        self._leaving: set[SessionId] = set()  # rested, and are about to give their slots back
        self._waiting = Waiting()

    @property
    def resting(self) -> Collection[SessionId]:
        """Sessions whose slots anybody may have."""
        return tuple(self._resting)

    def rests(self, session: SessionId) -> bool:
        return session in self._resting or session in self._leaving

    def take(self, asker: PeerId, left_s: Sequence[float], now: float) -> SessionId | None:
        """Count one more slot of that asker's; the resting session that has to go for it, if there has to be one.

        Args:
            left_s: when each of the running sessions is expected to have ended.
        Raises:
            Full: all are taken, or others are to have the next one.
        """
        self._admit(asker, left_s, now)
        return first_to_go(self._resting) if self._held.total() + len(self._resting) > self._slots else None

    def waits_s(self, asker: PeerId, now: float) -> float:
        """How long it has wanted a slot."""
        want = self._waiting.wants.get(asker)
        return now - want.since if want is not None else 0.0

    def rest(self, session: SessionId, asker: PeerId) -> SessionId | None:
        """That session rests from now on; another one of the same asker's that has to go instead, if it has too many.

        One slot stays clear of what a single asker has resting, so that a newcomer need not wait for one to be cleared.
        """
        if self.rests(session):
            return None
        self._held -= Counter((asker,))
        return self.keep(session, asker)

    def keep(self, session: SessionId, asker: PeerId) -> SessionId | None:
        """The same for what is left of a session that has ended, in the slot that it has given back."""
        self._resting[session] = asker
        own = {resting: peer for resting, peer in self._resting.items() if peer == asker}
        return first_to_go(own) if len(own) > max(1, self._slots - 1) else None

    def wake(self, session: SessionId, left_s: Sequence[float], now: float) -> None:
        """Its asker has come back: as if it took a slot anew.

        Raises:
            Full: others are to have the next slot.
            PeerGone: it had to go meanwhile.
        """
        if session in self._leaving:
            raise PeerGone("the session's slot is somebody else's by now")
        if session in self._resting:
            self._admit(self._resting[session], left_s, now)
            del self._resting[session]

    def leave(self, session: SessionId) -> None:
        """If it rests it is about to end: its slot counts as free, and it need not be told to go."""
        if self._resting.pop(session, None) is not None:
            self._leaving.add(session)

    def end(self, session: SessionId, asker: PeerId) -> None:
        """Its slot is free."""
        self.leave(session)
        if session in self._leaving:
            self._leaving.remove(session)
        else:
            self.give_back(asker)

    def give_back(self, asker: PeerId) -> None:
        """A slot that was taken for nothing."""
        self._held -= Counter((asker,))

    def _admit(self, asker: PeerId, left_s: Sequence[float], now: float) -> None:
        free = self._slots - self._held.total()
        wait_s = retry_after_s(asker, self._held, self._waiting, free, left_s, now, own=self._own)
        if wait_s is not None:
            self._waiting = self._waiting.refused(asker, wait_s, now)
            raise Full(f"all {self._slots} sessions are taken, or others have asked for the next one before", wait_s)
        self._waiting = self._waiting.admitted(asker)
        self._held[asker] += 1
