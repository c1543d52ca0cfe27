"""The owner's hand on lending: the switch, the governor's sentence beside it, and buttons to pause and to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, ItemGrid, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Button, Static, Switch

from peerllm.local.lending import GuestStatus
from peerllm.local.schema import Status
from peerllm_tui.guest_text import standing, tomorrow

PAUSES_S = {"pause-30": 30 * 60.0, "pause-120": 2 * 3600.0}
"""By button; "until tomorrow" depends on the hour."""


class LendingBar(Vertical):
    DEFAULT_CSS = """
    LendingBar { height: auto; }
    LendingBar #switch-line { height: 3; padding: 0 1; }
    LendingBar #switch-words { width: 1fr; height: 3; content-align: left middle; padding: 0 1; }
    LendingBar ItemGrid { height: auto; padding: 0 1; grid-gutter: 0 1; }
    LendingBar Button { width: 1fr; min-width: 10; }
    LendingBar #resume { display: none; }
    LendingBar.-paused #resume { display: block; }
    """

    @dataclass
    class Switched(Message):
        on: bool

    @dataclass
    class Paused(Message):
        """Until a Unix time; 0 ends a pause."""

        until: float

    class Finishing(Message):
        """Running sessions may end, then lending stops."""

    def __init__(self) -> None:
        super().__init__()
        self._switch = Switch(id="share", disabled=True)
        self._words = Static("looking for the daemon …", id="switch-words", markup=False)
        self._buttons = (
            Button("Resume", id="resume", variant="success", compact=True),
            Button("Pause 30 min", id="pause-30", compact=True),
            Button("Pause 2 h", id="pause-120", compact=True),
            Button("Until tomorrow", id="pause-tomorrow", compact=True),
            Button("Finish and stop", id="finish", variant="warning", compact=True),
        )

    def compose(self) -> ComposeResult:
        with Horizontal(id="switch-line"):
            yield self._switch
            yield self._words
        with ItemGrid(min_column_width=16, regular=False):
            yield from self._buttons

    def show(self, status: Status, guest: GuestStatus, now: float, *, settled: bool) -> None:
        """`settled` is false while an order is on its way: the switch is not turned back meanwhile."""
        said = standing(status, guest, now)
        self._words.update(Content.styled(said.text, said.tone))
        self.set_class(guest.paused_until > now, "-paused")
        self._enable(lent=status.contribution.enabled, paused=guest.paused_until > now)
        if settled:
            with self.prevent(Switch.Changed):
                self._switch.value = status.contribution.enabled
            self._switch.disabled = False

    def show_absence(self, words: str) -> None:
        self._switch.disabled = True
        self._enable(lent=False, paused=False)
        self._words.update(Content.styled(words, "bold $error"))

    def turn(self) -> None:
        if not self._switch.disabled:
            self._switch.toggle()

    def turn_back(self) -> None:
        """The order was not given after all."""
        with self.prevent(Switch.Changed):
            self._switch.value = not self._switch.value
        self._switch.disabled = False

    def _enable(self, *, lent: bool, paused: bool) -> None:
        for button in self._buttons:
            button.disabled = not (paused if button.id == "resume" else lent)

    @on(Switch.Changed)
    def _turned(self, event: Switch.Changed) -> None:
        event.stop()
        event.switch.disabled = True
        self.post_message(self.Switched(event.value))

    @on(Button.Pressed)
    def _press(self, event: Button.Pressed) -> None:
        event.stop()
        now, name = time.time(), event.button.id or ""
        if name == "finish":
            self.post_message(self.Finishing())
        elif name == "resume":
            self.post_message(self.Paused(0.0))
        else:
            self.post_message(self.Paused(now + PAUSES_S[name] if name in PAUSES_S else tomorrow(now)))
