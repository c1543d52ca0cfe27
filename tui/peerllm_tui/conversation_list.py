"""The sidebar: kept conversations, the latest first, with a search over them; renames, deletes and exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from peerllm.atomic_write import write_atomically
from peerllm.errors import BadHistory
from peerllm.local.inert_text import counted, inert
from peerllm_tui.conversation import Conversation
from peerllm_tui.export import as_json, as_markdown, file_name
from peerllm_tui.history import History

_KEPT = "Kept on this disk for you alone. r rename, d delete, e export"
_NOT_KEPT = "Not kept: gone when you leave"


class ConversationList(Vertical):
    DEFAULT_CSS = """
    ConversationList { width: 30; max-width: 60%; background: $panel; }
    ConversationList Input { background: $boost; }
    ConversationList OptionList { height: 1fr; border: none; background: transparent; padding: 0; }
    ConversationList Static { width: 1fr; color: $text-muted; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "rename", "Rename"),
        ("d,delete", "delete", "Delete"),
        ("e", "export", "Export"),
    ]

    @dataclass
    class Chosen(Message):
        """A conversation is to be opened."""

        conversation: Conversation

    @dataclass
    class Renamed(Message):
        conversation_id: int
        title: str

    @dataclass
    class Deleted(Message):
        """One conversation, or all of them: 0."""

        conversation_id: int

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self._ids: list[int] = []
        self._current = 0

    def compose(self) -> ComposeResult:
        yield Input(placeholder="Search conversations", compact=True)
        yield OptionList(compact=True)
        yield Static(_KEPT if self._history.is_kept else _NOT_KEPT, markup=False)

    def on_mount(self) -> None:
        self.show(self._current)

    def show(self, current: int) -> None:
        """What is kept and found, with the one of that id marked."""
        self._current = current
        try:
            found = self._history.listed(self.query_one(Input).value)
        except BadHistory as error:
            self._say(str(error))
            return
        options = self.query_one(OptionList)
        self._ids = [each.id for each in found]
        options.set_options([Option(Content(inert(each.name))) for each in found])
        if current in self._ids:
            options.highlighted = self._ids.index(current)

    def keep(self, conversation: Conversation) -> Conversation:
        """With its id, if it can be kept."""
        try:
            conversation = self._history.save(conversation)
        except BadHistory as error:
            self._say(str(error))
        self.show(conversation.id)
        return conversation

    def search(self) -> None:
        self.query_one(Input).focus()

    def browse(self) -> None:
        options = self.query_one(OptionList)
        options.focus()
        if options.highlighted is None:
            options.action_first()

    @work
    async def rename(self, conversation: Conversation) -> None:
        from peerllm_tui.dialogs import OneLine

        title = await self.app.push_screen_wait(OneLine("Title of this conversation", conversation.name))
        if title is None:
            return
        try:
            self._history.rename(conversation.id, title)
        except BadHistory as error:
            self._say(str(error))
            return
        self.show(self._current)
        self.post_message(self.Renamed(conversation.id, " ".join(title.split())))

    @work
    async def delete(self, conversation: Conversation) -> None:
        from peerllm_tui.dialogs import Confirmation

        question = f"Delete “{inert(conversation.name)}”? It cannot be brought back."
        if await self.app.push_screen_wait(Confirmation(question, "Delete")):
            self._delete(conversation.id)

    @work
    async def delete_all(self) -> None:
        from peerllm_tui.dialogs import Confirmation

        question = "Delete all conversations that are kept? They cannot be brought back."
        if await self.app.push_screen_wait(Confirmation(question, "Delete all")):
            self._delete(0)

    def export(self, conversation: Conversation, ending: str) -> None:
        """Into the present folder, as "md" or "json"."""
        file = Path.cwd() / file_name(conversation, ending)
        text = as_json(conversation) if ending == "json" else as_markdown(conversation)
        try:
            write_atomically(file, text.encode("utf-8", "replace"))
        except OSError as error:
            self._say(f"nothing was written: {error}")
        else:
            self._say(f"written to {file}")

    @on(Input.Changed)
    def _search(self, event: Input.Changed) -> None:
        event.stop()
        self.show(self._current)

    @on(Input.Submitted)
    def _to_results(self, event: Input.Submitted) -> None:
        event.stop()
        self.browse()

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if (conversation := self._highlighted()) is not None:
            self.post_message(self.Chosen(conversation))

    def action_rename(self) -> None:
        if (conversation := self._highlighted()) is not None:
            self.rename(conversation)

    def action_delete(self) -> None:
        if (conversation := self._highlighted()) is not None:
            self.delete(conversation)

    def action_export(self) -> None:
        if (conversation := self._highlighted()) is not None:
            self.export(conversation, "md")

    def _highlighted(self) -> Conversation | None:
        place = self.query_one(OptionList).highlighted
        try:
            return None if place is None else self._history.load(self._ids[place])
        except BadHistory as error:
            self._say(str(error))
            return None

    def _delete(self, conversation_id: int) -> None:
        try:
            if conversation_id:
                self._history.delete(conversation_id)
            else:
                self._say(f"{counted(self._history.delete_all(), 'conversation')} deleted")
        except BadHistory as error:
            self._say(str(error))
            return
        self.show(self._current)
        self.post_message(self.Deleted(conversation_id))

    def _say(self, text: str) -> None:
        self.notify(inert(text), markup=False)
