"""What this machine lends: the switch, what the governor makes of the moment, the owner's limits, what was given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import ClassVar, cast

from textual import on, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from peerllm.errors import NotRunning, PeerllmError
from peerllm.local.client import LocalClient
from peerllm.local.inert_text import inert
from peerllm_tui.consent import Consent, consented
from peerllm_tui.contribution_facts import lent_facts, membership_facts
from peerllm_tui.contribution_look import ContributionLook, lines_part, part
from peerllm_tui.guest_text import ledger_lines, moment_facts, signal_facts, tomorrow
from peerllm_tui.lending_bar import PAUSES_S, LendingBar
from peerllm_tui.limit_form import LimitForm, LimitRow
from peerllm_tui.policy_choice import KEY, PolicyChoice
from peerllm_tui.watch import HasDaemon, Watch

_MARGIN = 4  # columns beside the facts: their padding and a scroll bar
_WIDE = 120

Order = Callable[[LocalClient], None]


class ContributeScreen(Screen[None]):
    """Alive while it is shown; what it shows is the daemon's answer, never ahead of it."""

    TITLE = "Contribute"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012  # as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "turn", "Share on/off"),
        Binding("p", "pause(30)", "Pause 30 min"),
        Binding("u", "resume", "Resume"),
        Binding("f", "finish", "Finish and stop"),
    ]
    CSS = """
    ContributeScreen #failure { height: auto; padding: 0 1; color: $error; display: none; }
    ContributeScreen.-failed #failure { display: block; }
    ContributeScreen #facts { scrollbar-size-vertical: 1; margin: 1 0 0 0; }
    ContributeScreen #columns { height: auto; layout: vertical; }
    ContributeScreen.-wide #columns { layout: horizontal; }
    ContributeScreen .column { height: auto; width: 1fr; }
    ContributeScreen .part { height: auto; padding: 0 1; margin: 0 0 1 0; }
    ContributeScreen .lines { text-wrap: nowrap; text-overflow: ellipsis; }
    ContributeScreen .title { text-style: bold; }
    ContributeScreen.-away #facts { opacity: 50%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._watch: Watch[ContributionLook] | None = None
        self._look: ContributionLook | None = None
        self._bar, self._policy, self._limits = LendingBar(), PolicyChoice(), LimitForm()
        self._ordering = False  # until then a look may still show what was before

    def compose(self) -> ComposeResult:
        yield self._bar
        yield Static(id="failure", markup=False)
        with VerticalScroll(id="facts"), Horizontal(id="columns"):
            with Vertical(classes="column"):
                yield Static(id="lent", classes="part", markup=False)
                yield Static(id="signals", classes="part", markup=False)
                yield Static(id="ledger", classes="part lines", markup=False)
                yield Static(id="membership", classes="part", markup=False)
            with Vertical(classes="column"):
                with Vertical(classes="part"):
                    yield Static("When to lend", classes="title")
                    yield self._policy
                with Vertical(classes="part"):
                    yield Static("Limits", classes="title")
                    yield self._limits
                yield Static(id="log", classes="part lines", markup=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#facts").focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_facts)

    def on_screen_resume(self) -> None:
        self._watch = Watch(cast("HasDaemon", self.app).daemon, ContributionLook.through, self._show)
        self.run_worker(self._watch.run(), group="watch", exclusive=True)

    def on_screen_suspend(self) -> None:
        self.workers.cancel_group(self, "watch")

    def get_commands(self) -> Iterable[SystemCommand]:
        """What the palette offers for this screen."""
        yield SystemCommand("Lend this machine, or stop", "Space", self.action_turn)
        yield SystemCommand("Pause lending for 30 minutes", "p", lambda: self.action_pause(30))
        yield SystemCommand("Pause lending for 2 hours", "", lambda: self.action_pause(120))
        yield SystemCommand("Pause lending until tomorrow", "", lambda: self._pause(tomorrow(time.time())))
        yield SystemCommand("Resume lending", "u", self.action_resume)
        yield SystemCommand("Finish running sessions and stop lending", "f", self.action_finish)

    def action_turn(self) -> None:
        self._bar.turn()

    def action_pause(self, minutes: int) -> None:
        self._pause(time.time() + PAUSES_S[f"pause-{minutes}"])

    def action_resume(self) -> None:
        self._pause(0.0)

    @on(LendingBar.Finishing)
    def action_finish(self) -> None:
        self._order(lambda client: client.share(False, finish=True))

    @on(LendingBar.Paused)
    def _pause_asked(self, event: LendingBar.Paused) -> None:
        self._pause(event.until)

    def _pause(self, until: float) -> None:
        self._order(lambda client: client.pause(until))

    @on(LendingBar.Switched)
    @work(group="share", exclusive=True)
    async def _ask_to_share(self, event: LendingBar.Switched) -> None:
        order: Order = lambda client: client.share(event.on)  # noqa: E731
        if event.on and self._look is not None and not self._look.guest.consented:
            policy = await self.app.push_screen_wait(Consent(self._look.status))
            if not policy:
                self._bar.turn_back()
                return
            order = consented(policy)
        self._order(order)

    @on(PolicyChoice.Chosen)
    def _choose_policy(self, event: PolicyChoice.Chosen) -> None:
        self._order(lambda client: client.set_limits({KEY: event.policy}))

    @on(LimitRow.Changed)
    def _change_limit(self, event: LimitRow.Changed) -> None:
        row = self._limits.row(event.key)
        if row is None:
            return
        row.taken()
        self._order(lambda client: client.set_limits({event.key: event.value}), row.refused)

    def _order(self, order: Order, failed: Callable[[str], None] | None = None) -> None:
        """Tell the daemon, and say where it went wrong if it did."""
        self._ordering = True
        self._fail("")
        self.run_worker(self._tell(order, failed or self._fail), group="order")

    async def _tell(self, order: Order, failed: Callable[[str], None]) -> None:
        daemon = cast("HasDaemon", self.app).daemon

        def tell() -> None:
            with daemon.client() as client:
                order(client)

        try:
            await asyncio.to_thread(tell)
        except PeerllmError as error:
            failed(inert(str(error)))
        finally:
            self._ordering = False
        if self._watch is not None:
            self._watch.hasten()

    def _fail(self, words: str) -> None:
        self.query_one("#failure", Static).update(words)
        self.set_class(bool(words), "-failed")

    def _show(self, look: ContributionLook | PeerllmError) -> None:
        self.set_class(isinstance(look, PeerllmError), "-away")
        if isinstance(look, PeerllmError):
            self._bar.show_absence(_absence(look))
            return
        self._look = look
        self._bar.show(look.status, look.guest, time.time(), settled=not self._ordering)
        self._policy.show(look.guest.policy)
        self._limits.show([limit for limit in look.limits if limit.key != KEY])
        self._show_facts()

    def _show_facts(self) -> None:
        if self._look is None or not self.query("#log"):  # the screen is being left
            return
        look, width = self._look, self.size.width // (2 if self.has_class("-wide") else 1) - _MARGIN
        parts: dict[str, Content] = {
            "lent": part("This machine", [*lent_facts(look.status, look.placement), *moment_facts(look.guest)], width),
            "signals": part("What decides", signal_facts(look.guest), width, term_cells=20),
            "ledger": lines_part("Gave and used, tokens × blocks", ledger_lines(look.today, look.week)),
            "membership": part("Swarm", membership_facts(look.status, look.members), width),
            "log": lines_part("Log", look.log),
        }
        for name, content in parts.items():
            self.query_one(f"#{name}", Static).update(content)


def _absence(error: PeerllmError) -> str:
    waiting = "; this screen goes on by itself" if isinstance(error, NotRunning) else ""
    return f"{inert(str(error))}{waiting}"
