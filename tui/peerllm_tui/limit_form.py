"""The owner's limits, a line for each: written over in place, refused or taken by the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Button, Input, Static

from peerllm.local.inert_text import inert
from peerllm.local.lending import Limit
from peerllm_tui.limit_text import about_text, limit_text, limit_value


class LimitRow(Vertical):
    """What is being written is not written over by what the daemon tells."""

    DEFAULT_CSS = """
    LimitRow { height: auto; }
    LimitRow Horizontal { height: 1; }
    LimitRow .key { width: 29; color: $text-muted; }
    LimitRow Input { width: 18; }
    LimitRow .takes { width: 1fr; color: $text-muted; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    LimitRow Button { display: none; min-width: 7; width: 7; }
    LimitRow.-chosen Button { display: block; }
    LimitRow.-chosen .key { color: $text; text-style: bold; }
    LimitRow .about { display: none; color: $text-muted; padding: 0 0 0 2; }
    LimitRow:focus-within .about { display: block; }
    LimitRow .problem { display: none; color: $text-error; padding: 0 0 0 2; }
    LimitRow.-refused .problem { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "undo", "Undo", show=False),
        Binding("ctrl+r", "reset", "As in config.toml", priority=True),
    ]

    @dataclass
    class Changed(Message):
        """The owner wants this limit to have this value; None is what config.toml says."""

        key: str
        value: object

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self._limit = limit

    @property
    def key(self) -> str:
        return self._limit.key

    @property
    def shown(self) -> str:
        """What holds, as the field shows it when nothing is being written."""
        return limit_text(self._limit)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Static(inert(self.key), classes="key", markup=False)
            yield Input(limit_text(self._limit), compact=True, select_on_focus=False)
            yield Button("reset", compact=True)
            yield Static(inert(self._limit.allowed), classes="takes", markup=False)
        yield Static(classes="problem", markup=False)
        yield Static(about_text(self._limit), classes="about", markup=False)

    def on_mount(self) -> None:
        self.set_class(self._limit.source == "choice", "-chosen")

    def show(self, limit: Limit) -> None:
        """As the daemon has it now."""
        field = self.query_one(Input)
        untouched = field.value == limit_text(self._limit)
        self._limit = limit
        if untouched and field.value != limit_text(limit):
            field.value = limit_text(limit)
        self.set_class(limit.source == "choice", "-chosen")

    def taken(self) -> None:
        self.remove_class("-refused")

    def refused(self, problem: str) -> None:
        """Why the daemon did not take it, at the place where it was written."""
        self.query_one(".problem", Static).update(inert(problem))
        self.add_class("-refused")

    @on(Input.Submitted)
    def _submit(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Changed(self.key, limit_value(self._limit, event.value)))

    @on(Button.Pressed)
    def action_reset(self) -> None:
        self.action_undo()
        self.post_message(self.Changed(self.key, None))

    def action_undo(self) -> None:
        """Back to what holds."""
        self.query_one(Input).value = limit_text(self._limit)
        self.taken()


class LimitForm(Vertical):
    DEFAULT_CSS = """
    LimitForm { height: auto; }
    LimitForm .hint { color: $text-muted; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, LimitRow] = {}

    def compose(self) -> ComposeResult:
        yield Static("Enter takes up, Esc undoes, Ctrl+R is as in config.toml.", classes="hint")

    def show(self, limits: Sequence[Limit]) -> None:
        """Rows anew only if there are other limits than before."""
        if not self.is_attached:  # the screen is being left
            return
        if list(self._rows) != [limit.key for limit in limits]:
            self.query(LimitRow).remove()
            self._rows = {limit.key: LimitRow(limit) for limit in limits}
            self.mount_all(self._rows.values())
            return
        for limit in limits:
            self._rows[limit.key].show(limit)

    def row(self, key: str) -> LimitRow | None:
        return self._rows.get(key)
