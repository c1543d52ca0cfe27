"""The menu as a tree of values, made from what is known at one moment. Pure.

Its shape stays as far as it can and what does not apply is hidden: a menu whose shape stays need not be closed to be
brought up to date (docs/adr/0019-the-tray.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peerllm.local.inert_text import listed
from peerllm_tray.actions import (
    Action,
    AskConsent,
    OpenChat,
    OpenPage,
    Pause,
    Quit,
    Share,
    StartAtLogin,
    StartDaemon,
)
from peerllm_tray.lend_menu import lend_menu, model_menu
from peerllm_tray.menu_entry import Entry, Kind, line, separator, submenu
from peerllm_tray.moment import Look, Moment
from peerllm_tray.plain_text import plain, sentence
from peerllm_tray.state import TrayState, tray_state

Menu = tuple[Entry, ...]

_WHAT_YES_MEANS = (
    "Others of the swarm compute with its processor and memory, at the lowest priority",
    "It pauses by itself when you need the machine; one click stops it",
    "Hidden states of others' prompts pass through it; your files do not leave it",
)
_NAME_CHARS = 24
_PUBLIC = "This swarm is public: anybody may use what you lend"


@dataclass(frozen=True)
class Face:
    """What a surface shows: picture, tooltip and menu, and what a click on the icon asks for."""

    state: TrayState
    menu: Menu = field(default=())
    click: Action | None = None


def face(moment: Moment) -> Face:
    """What is to be shown at that moment."""
    state = tray_state(moment)
    return Face(state, _menu(moment, state), _click(moment))


def _click(moment: Moment) -> Action | None:
    look = moment.look
    if look is None:
        return StartDaemon() if moment.away and not moment.starting else None
    if not look.guest.consented:
        return AskConsent()
    return Pause(0) if look.paused_at(moment.now) else Share(not look.lends)


def _menu(moment: Moment, state: TrayState) -> Menu:
    look, here = moment.look, moment.look is not None
    lends = look is not None and look.lends
    startable = not here and bool(moment.away) and not moment.starting
    return (
        *_said(moment, state),
        separator("said-end"),
        Entry("start", "Start the daemon", StartDaemon(), visible=startable),
        *_switches(look, moment.now),
        separator("switches-end"),
        *_choices(moment),
        separator("choices-end", visible=here),
        Entry("chat", "Open chat", OpenChat(), visible=here),
        Entry("page", "Open in browser", OpenPage(), visible=here),
        separator("doors-end", visible=here),
        Entry("login", "Start at login", StartAtLogin(not moment.at_login), Kind.CHECK, checked=moment.at_login),
        Entry("quit", "Quit (sharing goes on)" if lends else "Quit", Quit()),
        Entry("quit-all", "Quit and stop sharing", Quit(stop_sharing=True), visible=lends),
    )


def _said(moment: Moment, state: TrayState) -> Menu:
    """Lines to read: what is, why, who uses it, what was given and used today, what went wrong."""
    return (
        line("headline", state.headline),
        line("why", state.why),
        *_traffic(moment.look),
        line("failure", plain(moment.failure)),
    )


def _traffic(look: Look | None) -> Menu:
    if look is None:
        return line("using", ""), line("today", ""), line("problem", "")
    using = listed([plain(name, _NAME_CHARS) for name in look.guest.using], most=3)
    gave, used = look.guest.gave_tokens, look.guest.used_tokens
    return (
        line("using", f"In use by {using}" if using else ""),
        line("today", f"Today: gave {gave:,}, used {used:,} tokens × blocks" if gave or used else ""),
        line("problem", sentence(look.status.membership.problem)),
    )


def _switches(look: Look | None, now: float) -> Menu:
    """Until the owner said yes once, the switch is a question; then it is a switch."""
    there = look is not None and look.guest.consented
    lends = look is not None and look.lends
    paused = look is not None and look.paused_at(now)
    return (
        submenu("consent", "Contribute …", *_question(look), visible=look is not None and not there),
        Entry("contribute", "Contribute", Share(not lends), Kind.CHECK, checked=lends, visible=there),
        submenu(
            "pause",
            "Pause",
            Entry("30-minutes", "For 30 minutes", Pause(30 * 60.0)),
            Entry("2-hours", "For 2 hours", Pause(2 * 3600.0)),
            Entry("tomorrow", "Until tomorrow", Pause(None)),
            visible=lends and not paused,
        ),
        Entry("resume", "Resume", Pause(0), visible=lends and paused),
        Entry("finish", "Finish current work and stop", Share(False, finish=True), visible=lends),
    )


def _question(look: Look | None) -> Menu:
    swarm = plain(look.status.swarm, 40) if look else ""
    public = look is not None and look.status.membership.public
    return (
        line("title", f"Lend this computer to the swarm {swarm}?"),
        *(line(f"meaning-{number}", meaning) for number, meaning in enumerate(_WHAT_YES_MEANS)),
        line("public", _PUBLIC if public else ""),
        separator("question-end"),
        Entry("yes", "Yes, lend this computer", Share(True)),
    )


def _choices(moment: Moment) -> Menu:
    look = moment.look
    limits = {limit.key: limit for limit in look.limits} if look else {}
    return (
        lend_menu(limits, moment.machine.ram_bytes, moment.machine.cores),
        model_menu(limits, look.models if look else ()),
    )
