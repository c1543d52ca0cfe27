"""What the icon shows: a picture, and what is said of it. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from peerllm.local.lending import GuestStatus
from peerllm.local.schema import Status
from peerllm_tray.moment import Moment
from peerllm_tray.plain_text import plain, sentence

NAME = "peerllm"

_HELD_BACK = frozenset({"pause", "release"})


class Picture(StrEnum):
    """Each differs by shape and by colour."""

    OFF = "off"
    PREPARING = "preparing"
    SHARING = "sharing"
    BUSY = "busy"
    ANSWERING = "answering"
    TROUBLE = "trouble"


@dataclass(frozen=True)
class TrayState:
    """`headline` says what this machine lends, `why` is a sentence or ""."""

    picture: Picture
    headline: str
    why: str = ""

    @property
    def tooltip(self) -> str:
        return f"{self.headline}\n{self.why}" if self.why else self.headline


def tray_state(moment: Moment) -> TrayState:
    """What is to be shown; trouble before pauses, pauses before what is lent."""
    look = moment.look
    if look is None:
        return _without_daemon(moment)
    lifecycle, guest = look.status.lifecycle, look.guest
    if lifecycle.name == "error":
        return TrayState(Picture.TROUBLE, "The daemon needs you", sentence(lifecycle.reason))
    if not guest.consented:
        return TrayState(Picture.OFF, "Not sharing: you have not said yes yet")
    if guest.finishing:
        return TrayState(Picture.ANSWERING, "Finishing what runs, then sharing stops")
    if not look.lends:
        return TrayState(Picture.OFF, "Not sharing")
    if look.paused_at(moment.now):
        return TrayState(Picture.OFF, f"Paused by you until {clock(guest.paused_until, moment.now)}")
    if guest.verdict in _HELD_BACK:
        return TrayState(Picture.BUSY, "Paused: this computer is yours first", sentence(guest.reason))
    return _lending(look.status, guest)


def clock(at: float, now: float) -> str:
    """ "18:30", with the weekday if that is another day."""
    then = time.localtime(at)
    return time.strftime("%H:%M" if then[:3] == time.localtime(now)[:3] else "%A, %H:%M", then)


def _lending(status: Status, guest: GuestStatus) -> TrayState:
    lent = status.contribution
    if not lent.span:
        return TrayState(Picture.PREPARING, f"About to share: {_progress(status)}", sentence(lent.reason))
    where = f"blocks {plain(lent.span)} of {plain(lent.model)}"
    if guest.using or lent.slots_used:
        return TrayState(Picture.ANSWERING, f"Answering others with {where}", sentence(guest.reason))
    return TrayState(Picture.SHARING, f"Sharing {where}", sentence(guest.reason))


def _progress(status: Status) -> str:
    now = status.lifecycle
    return plain(now.name) + ("" if now.progress is None else f" {now.progress:.0%}")


def _without_daemon(moment: Moment) -> TrayState:
    if moment.starting:
        return TrayState(Picture.PREPARING, "Starting the daemon …")
    if moment.away:
        return TrayState(Picture.TROUBLE, "The daemon does not answer", sentence(moment.away))
    return TrayState(Picture.OFF, "Looking for the daemon …")
