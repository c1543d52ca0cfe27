"""Where questions are written: Enter sends, Shift+Enter breaks the line."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.widgets import TextArea

_NEW_LINE = ("shift+enter", "alt+enter", "ctrl+j")
"""Many terminals send the first as a plain Enter."""


class QuestionBox(TextArea):
    DEFAULT_CSS = """
    QuestionBox { height: auto; max-height: 30%; min-height: 1; border: none; padding: 0 1; background: $boost; }
    QuestionBox:focus { border: none; }
    """

    @dataclass
    class Asked(Message):
        """A question; `anew` if it is the last one, written anew."""

        text: str
        anew: bool = False

    class EditLast(Message):
        """The last question is to be written anew."""

    def __init__(self, placeholder: str) -> None:
        super().__init__(compact=True, placeholder=placeholder, highlight_cursor_line=False)
        self.is_editing = False
        """Is the last question written anew?"""

    def write_anew(self, question: str) -> None:
        self.is_editing = True
        self.text = question
        self.move_cursor(self.document.end)
        self.focus()

    def leave_edit(self) -> None:
        self.is_editing = False

    def empty(self) -> None:
        self.clear()
        self.leave_edit()

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            self._take(event)
            if self.text.strip():
                self.post_message(self.Asked(self.text.strip(), self.is_editing))
        elif event.key in _NEW_LINE:
            self._take(event)
            self.insert("\n")
        elif event.key == "up" and not self.text:
            self._take(event)
            self.post_message(self.EditLast())
        else:
            await super()._on_key(event)

    def _take(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
