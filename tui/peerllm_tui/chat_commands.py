"""What the palette offers for the chat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from textual.app import SystemCommand

from peerllm_tui.conversation_list import ConversationList

if TYPE_CHECKING:
    from peerllm_tui.chat_screen import ChatScreen


def chat_commands(screen: ChatScreen) -> Iterable[SystemCommand]:
    """By what is on the screen: there is nothing to copy before the first answer."""
    if screen.is_answering:
        yield SystemCommand("Stop the answer", "Esc", screen.action_stop)
    yield SystemCommand("New conversation", "Ctrl+N", screen.action_new)
    yield SystemCommand("Search conversations", "Ctrl+F", screen.action_search)
    yield SystemCommand("Show or hide the list", "Ctrl+B", screen.action_sidebar)
    yield SystemCommand("Choose the model", "Ctrl+O", screen.action_pick_model)
    yield SystemCommand("System prompt and sampling", "Ctrl+S", screen.action_terms)
    sidebar = screen.query_one(ConversationList)
    if screen.conversation.turns:
        yield from _of_conversation(screen, sidebar)
    yield SystemCommand("Delete all conversations", "All that is kept, for good", sidebar.delete_all)


def _of_conversation(screen: ChatScreen, sidebar: ConversationList) -> Iterable[SystemCommand]:
    here, open_now = "Into the present folder", screen.conversation
    yield SystemCommand("Edit last question", "Up in an empty question box", screen.action_edit_last)
    yield SystemCommand("Answer again", "Ctrl+R", screen.action_again)
    yield SystemCommand("Copy answer", "F5", screen.action_copy_answer)
    yield SystemCommand("Copy code", "F6; once more for the block before", screen.action_copy_code)
    yield SystemCommand("Rename conversation", "This one", lambda: sidebar.rename(open_now))
    yield SystemCommand("Export as Markdown", here, lambda: sidebar.export(open_now, "md"))
    yield SystemCommand("Export as JSON", here, lambda: sidebar.export(open_now, "json"))
    yield SystemCommand("Delete conversation", "This one, for good", lambda: sidebar.delete(open_now))
