"""What the governor has decided and why, in words for the contribute screen. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import set_cell_size

from peerllm.local.inert_text import counted, inert, listed, sentence
from peerllm.local.lending import GuestStatus, LedgerRow
from peerllm.local.schema import ContributionStatus, Status
from peerllm.sizes import format_bytes
from peerllm_tui.contribution_facts import Fact

POLICIES = {
    "polite": "always, politely: takes only what nobody else wants",
    "idle": "only when idle: while nobody uses this computer",
    "night": "at night: politely, within guest.hours",
    "custom": "custom: as the limits say",
}

TOMORROW_HOUR = 8

_MOST_PEERS = 8
_NAME_CELLS = 12
_NUMBER_CELLS = 10


@dataclass(frozen=True)
class Standing:
    """Whether this machine lends now: a sentence, and the tone in which it is said."""

    text: str
    tone: str = ""


def standing(status: Status, guest: GuestStatus, now: float) -> Standing:
    """The governor's sentence, or what comes before it."""
    lent = status.contribution
    if guest.finishing:
        return Standing("Running sessions may end, then lending stops.", "$warning")
    if not lent.enabled:
        more = "" if guest.consented else " You are asked before anything is lent."
        return Standing(f"This machine lends nothing. Turn it on to serve blocks to the swarm.{more}")
    if guest.paused_until > now:
        return Standing(f"Paused by you until {clock(guest.paused_until, now)}.", "$warning")
    reason = inert(guest.reason)
    match guest.verdict:
        case "pause" | "release":
            return Standing(sentence(reason), "$warning")
        case "reduce":
            return Standing(sentence(reason), "$success")
        case _:
            return Standing(*_lending(lent, reason))


def moment_facts(guest: GuestStatus) -> list[Fact]:
    """How much the governor lets it take, who is served, and what that came to today."""
    takes = [f"{guest.power} power"] if guest.power else []
    if guest.threads:
        takes.append(counted(guest.threads, "thread"))
    if guest.memory_bytes:
        takes.append(format_bytes(guest.memory_bytes))
    facts = [Fact("takes", inert(", ".join(takes)))] if takes else []
    if guest.using:
        facts.append(Fact("serving", listed([inert(name, _NAME_CELLS) for name in guest.using])))
    gave, used = _thousands(guest.gave_tokens), _thousands(guest.used_tokens)
    return [*facts, Fact("today", f"gave {gave}, used {used} (tokens × blocks)")]


def signal_facts(guest: GuestStatus) -> list[Fact]:
    """What the decision was made from; what holds lending back is marked."""
    return [
        Fact(
            f"{'✗' if signal.held else ' '} {inert(signal.name, 17)}",
            inert(signal.text) + (" · holds lending back" if signal.held else ""),
            "$warning" if signal.held else "",
        )
        for signal in guest.signals
    ]


def ledger_lines(today: Sequence[LedgerRow], week: Sequence[LedgerRow]) -> list[str]:
    """A table: gave and used by peer, today and in the last 7 days, who gave and used most first."""
    if not week:
        return ["nothing was given or used in the last 7 days"]
    peers = sorted({row.peer_id: row.name for row in week}.items(), key=lambda peer: -_moved(week, peer[0]))
    titles = ("gave today", "used today", "gave 7 d", "used 7 d", "receipts")
    head = " ".join([" " * _NAME_CELLS, *(f"{title:>{_NUMBER_CELLS}}" for title in titles)])
    lines = [head, *(_ledger_line(_named(*peer), *_of(peer[0], today, week)) for peer in peers[:_MOST_PEERS])]
    if len(peers) > _MOST_PEERS:
        lines.append(f"{counted(len(peers) - _MOST_PEERS, 'more peer')}: `peerllm ledger` has all")
    return [*lines, _ledger_line("all", today, week), _cost(week)]


def clock(at: float, now: float) -> str:
    """ "18:30", with the day if it is not today."""
    then = time.localtime(at)
    today = time.localtime(now)[:3] == then[:3]
    return time.strftime("%H:%M" if today else "%a %H:%M", then)


def tomorrow(now: float) -> float:
    """Unix time of the next morning."""
    year, month, day, *_ = time.localtime(now)
    return time.mktime((year, month, day + 1, TOMORROW_HOUR, 0, 0, 0, 0, -1))


def _lending(lent: ContributionStatus, reason: str) -> tuple[str, str]:
    because = f" ({reason})" if reason else ""
    if not lent.span:
        return f"To be lent{because}; it serves no blocks yet.", "$success"
    return f"Lent{because}: it serves blocks to the swarm.", "$success"


def _of(peer_id: str, today: Sequence[LedgerRow], week: Sequence[LedgerRow]) -> tuple[list[LedgerRow], list[LedgerRow]]:
    return [row for row in today if row.peer_id == peer_id], [row for row in week if row.peer_id == peer_id]


def _ledger_line(name: str, today: Sequence[LedgerRow], week: Sequence[LedgerRow]) -> str:
    numbers = (
        sum(row.gave_tokens for row in today),
        sum(row.used_tokens for row in today),
        sum(row.gave_tokens for row in week),
        sum(row.used_tokens for row in week),
    )
    cells = (f"{_thousands(number):>{_NUMBER_CELLS}}" for number in (*numbers, sum(row.receipts for row in week)))
    return " ".join([set_cell_size(name, _NAME_CELLS), *cells])


def _cost(week: Sequence[LedgerRow]) -> str:
    sent = sum(row.gave_bytes for row in week)
    known = [row.gave_wh for row in week if row.gave_wh is not None]
    energy = f", about {sum(known):.1f} Wh" if known else ""
    return f"7 days: computed {sum(row.gave_s for row in week):.0f} s for others, moved {format_bytes(sent)}{energy}"


def _moved(rows: Sequence[LedgerRow], peer_id: str) -> int:
    return sum(row.gave_tokens + row.used_tokens for row in rows if row.peer_id == peer_id)


def _named(peer_id: str, name: str) -> str:
    return inert(name, _NAME_CELLS) or f"…{inert(peer_id[-6:])}"


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")
