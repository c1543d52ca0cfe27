"""Which peers an answer may go through, as its asker demands. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from peerllm_swarm.records import PeerRecord, SwarmView
from peerllm_swarm.span import PeerId

OWN, FRIENDS, SWARM = "own", "friends", "swarm"
TRUST_LEVELS = (OWN, FRIENDS, SWARM)

LEAST_ID_CHARS = 4
"""Of the beginning or end of a peer id that stands for the whole."""


@dataclass(frozen=True)
class RouteTerms:
    """Peers are named by id, by a beginning or end of it, or by the name of their machine.

    If any are `pinned` an answer goes through no others; `excluded` ones never see it. Names are what peers say of
    themselves, so `trust` goes by ids alone.
    """

    pinned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    trust: str = SWARM
    """Who may see the hidden states: "own" peers (this owner's), "friends" (own and theirs), or the whole "swarm"."""
    deadline_s: float | None = None
    """From the request's arrival to its last token; `DeadlineExceeded` after that."""
    speculation: bool | None = None
    """Whether tokens are guessed ahead where that is faster; None: as the config says."""

    @property
    def restrict(self) -> bool:
        """Do they keep the answer from any peer?"""
        return bool(self.pinned or self.excluded) or self.trust != SWARM

    def __str__(self) -> str:
        said = [f"only {', '.join(self.pinned)}"] if self.pinned else []
        said += [f"not {', '.join(self.excluded)}"] if self.excluded else []
        said += [f"{self.trust} peers only"] if self.trust != SWARM else []
        return "; ".join(said)


@dataclass(frozen=True)
class Trusted:
    """Whom this machine's owner trusts, by id; this machine itself belongs to `own`."""

    own: frozenset[PeerId] = frozenset()
    friends: frozenset[PeerId] = frozenset()

    def of(self, level: str) -> frozenset[PeerId]:
        return self.own if level == OWN else self.own | self.friends


def admitted(view: SwarmView, terms: RouteTerms, trusted: Trusted) -> SwarmView:
    """The view without the records of peers that the answer must not go through."""
    if not terms.restrict:
        return view
    return SwarmView(view.at, tuple(record for record in view.records if _may_see(record, terms, trusted)))


def strangers(view: SwarmView, names: Collection[str]) -> list[str]:
    """Those of the names that no peer in view answers to."""
    return [name for name in names if not any(_is_called(record, name) for record in view.records)]


def _may_see(record: PeerRecord, terms: RouteTerms, trusted: Trusted) -> bool:
    if terms.trust != SWARM and record.peer_id not in trusted.of(terms.trust):
        return False
    if any(_is_called(record, name) for name in terms.excluded):
        return False
    return not terms.pinned or any(_is_called(record, name) for name in terms.pinned)


def _is_called(record: PeerRecord, name: str) -> bool:
    part = name.removeprefix("…")
    is_id = len(part) >= LEAST_ID_CHARS and (record.peer_id.startswith(part) or record.peer_id.endswith(part))
    return is_id or record.name.casefold() == name.casefold()
