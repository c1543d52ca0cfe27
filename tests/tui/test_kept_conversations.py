"""Conversations of the chat: found, renamed, copied, exported, deleted, or never kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from peerllm.cli import main
from peerllm_tui.chat_screen import ChatScreen
from peerllm_tui.conversation import Conversation, Turn
from peerllm_tui.history import History
from peerllm_tui.turn_views import AnswerView
from tests.support.chat_pilot import TALK, answered, ask, in_chat, keep, ready
from tests.support.running_api import RunningApi
from tests.support.screens import places, until, words


def test_conversations_are_found_opened_renamed_and_deleted(tmp_path: Path) -> None:
    keep(tmp_path, TALK, Conversation(turns=(Turn("user", "Of cheese"), Turn("assistant", "Milk."))))

    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        options = screen.query_one("ConversationList OptionList", OptionList)
        await until(pilot, lambda: options.option_count == 2)
        await pilot.press("ctrl+f", *"bake")
        await until(pilot, lambda: options.option_count == 1)
        await pilot.press("enter", "down", "enter")
        await until(pilot, lambda: screen.conversation.name == "Bread")
        await until(pilot, lambda: len(screen.query(AnswerView)) == 1)
        options.focus()
        await pilot.press("r")
        await pilot.pause()
        pilot.app.screen.query_one(Input).value = "To bake"
        await pilot.press("enter")
        await until(pilot, lambda: screen.conversation.title == "To bake")
        options.focus()
        options.highlighted = 0
        await pilot.press("d", "y")
        await until(pilot, lambda: options.option_count == 0)
        assert screen.conversation == Conversation()

    in_chat(tmp_path, act)
    with History(places(tmp_path).conversations_file) as history:
        assert [each.name for each in history.listed()] == ["Of cheese"]


def test_answer_and_its_blocks_of_code_are_copied(tmp_path: Path) -> None:
    keep(tmp_path, TALK)

    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await pilot.press("ctrl+f", "enter", "down", "enter")
        await until(pilot, lambda: screen.conversation.name == "Bread")
        copied: list[str] = []
        for key in ("f6", "f6", "f6", "f5"):
            await pilot.press(key)
            copied.append(pilot.app.clipboard)
        assert copied == ["bake 2", "bake(1)", "bake 2", TALK.last_answer]

    in_chat(tmp_path, act)


def test_conversation_is_exported_into_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "home", TALK)
    monkeypatch.chdir(tmp_path)

    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        screen.query_one("ConversationList OptionList", OptionList).focus()
        await pilot.press("down", "e")
        await until(pilot, (tmp_path / "peerllm-bread.md").exists)

    in_chat(tmp_path / "home", act)
    assert "bake(1)" in (tmp_path / "peerllm-bread.md").read_text()


def test_without_history_nothing_is_written(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        assert "Not kept" in words(screen, "ConversationList Static")
        await ready(pilot, screen)
        await ask(pilot, screen, "Secret")
        await answered(pilot, screen)
        assert screen.query_one("ConversationList OptionList", OptionList).option_count == 1

    in_chat(tmp_path, act, keep=False)
    assert not places(tmp_path).conversations_file.exists()


def test_damaged_history_is_said_and_the_chat_goes_on(tmp_path: Path) -> None:
    places(tmp_path).create()
    places(tmp_path).conversations_file.write_bytes(b"not a database, " * 100)

    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        assert "Not kept" in words(screen, "ConversationList Static")

    app = in_chat(tmp_path, act)
    assert not app.history.is_kept


def test_command_deletes_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEERLLM_HOME", str(tmp_path))
    keep(tmp_path, TALK)
    assert main(["chat", "--delete-history"]) == 0
    assert capsys.readouterr().out == "1 conversation deleted\n"
    with History(places(tmp_path).conversations_file) as history:
        assert history.listed() == []
