"""What one look at the daemon brings for the contribute screen, and how its parts are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from textual.content import Content

from peerllm.errors import JoinFailed
from peerllm.local.client import LocalClient
from peerllm.local.inert_text import inert
from peerllm.local.lending import GuestStatus, LedgerRow, Limit
from peerllm.local.membership import Member
from peerllm.local.placement import PlacementAccount
from peerllm.local.schema import Status
from peerllm_tui.contribution_facts import Fact

LOG_LINES = 15
WEEK_DAYS = 7

_TERM_CELLS = 14
_LEAST_COLUMNS = 16


@dataclass(frozen=True)
class ContributionLook:
    status: Status
    guest: GuestStatus
    placement: PlacementAccount
    members: tuple[Member, ...]
    limits: tuple[Limit, ...]
    today: tuple[LedgerRow, ...]
    week: tuple[LedgerRow, ...]
    log: tuple[str, ...]

    @classmethod
    def through(cls, client: LocalClient) -> ContributionLook:
        return cls(
            client.status(),
            client.guest(),
            client.placement(),
            _members(client),
            tuple(client.limits()),
            tuple(client.ledger()),
            tuple(client.ledger(WEEK_DAYS)),
            tuple(client.log(LOG_LINES)),
        )


def part(title: str, facts: Sequence[Fact], width: int, *, term_cells: int = _TERM_CELLS) -> Content:
    """Terms at the left, what is said of them in a column of its own."""
    lines = [Content.styled(title, "bold")]
    for fact in facts:
        text = wrap(fact.text, max(_LEAST_COLUMNS, width - term_cells)) or [""]
        lines.append(Content.assemble((fact.term.ljust(term_cells), "dim"), (text[0], fact.style)))
        lines += [Content.styled(" " * term_cells + line, fact.style) for line in text[1:]]
    return Content("\n").join(lines)


def lines_part(title: str, lines: Sequence[str]) -> Content:
    """Lines of strangers as they are; those too long are cut by the screen."""
    return Content("\n").join([Content.styled(title, "bold"), *map(Content, map(inert, lines))])


def _members(client: LocalClient) -> tuple[Member, ...]:
    try:
        return tuple(client.members())
    except JoinFailed:  # a public swarm has none, and a daemon that starts does not know them yet
        return ()
