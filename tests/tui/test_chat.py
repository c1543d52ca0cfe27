"""Questions and answers on the chat screen, over a real local API with the embedded model whole behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Markdown, Static, TextArea

from peerllm.errors import GenerationError
from peerllm.generation.answer_request import ChatPrompt
from peerllm_tui.chat_screen import ChatScreen
from peerllm_tui.history import History
from peerllm_tui.model_picker import ModelPicker
from peerllm_tui.question_box import QuestionBox
from peerllm_tui.status_line import StatusLine
from peerllm_tui.turn_views import AnswerView
from peerllm_tui.wording import harmless
from tests.api.conftest import ANY_PORT
from tests.support.chat_pilot import HaltingNode, about, answered, ask, in_chat, ready
from tests.support.running_api import RunningApi, running_api
from tests.support.screens import places, publish_api, until, withdraw_api, words
from tests.support.whole_model_node import MODEL, WholeModel


def test_answer_comes_with_what_it_took_and_is_kept(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await ask(pilot, screen, "Say hello")
        answer = await answered(pilot, screen)
        assert answer
        assert screen.query(Markdown).last().source == answer
        facts = words(screen, "#facts")
        assert "6 tokens" in facts
        assert "tokens/s" in facts
        assert "first token after" in facts
        assert "of 512" in facts
        assert about(screen) == "Cut at the length limit."

    in_chat(tmp_path, act)
    with History(places(tmp_path).conversations_file) as history:
        (kept,) = history.listed("hello")
        assert [turn.role for turn in history.load(kept.id).turns] == ["user", "assistant"]


def test_system_prompt_and_sampling_reach_the_model(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await pilot.press("ctrl+s")
        await pilot.pause()
        pilot.app.screen.query_one("#system", TextArea).text = "Be kind."
        pilot.app.screen.query_one("#top_p", Input).value = "1.5"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert "top_p is above 0" in str(pilot.app.screen.query_one("#problem", Static).render())
        pilot.app.screen.query_one("#top_p", Input).value = "0.5"
        await pilot.press("ctrl+s")
        await ask(pilot, screen, "Hi")
        await answered(pilot, screen)

    in_chat(tmp_path, act)
    asked = api.node.asked[-1]
    assert asked.max_tokens == 6
    assert (asked.sampling.temperature, asked.sampling.top_p) == (0, 0.5)
    assert isinstance(asked.prompt, ChatPrompt)
    assert [message["content"] for message in asked.prompt.messages] == ["Be kind.", "Hi"]


def test_escape_stops_the_answer_and_keeps_what_there_is(whole_model: WholeModel, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await ask(pilot, screen, "Count to a thousand")
        await until(pilot, lambda: bool(screen.query(AnswerView)) and bool(screen.query(AnswerView).last().text))
        await pilot.press("escape")
        partial_answer = await answered(pilot, screen)
        assert partial_answer
        assert screen.conversation.turns[-1].remark == "Stopped."
        assert about(screen) == "Stopped."
        await until(pilot, lambda: api.node.answering == 0)

    with running_api(ANY_PORT, whole_model, stand_in=HaltingNode(whole_model)) as api:
        publish_api(api, tmp_path)
        in_chat(tmp_path, act)


def test_leaving_keeps_the_partial_answer(whole_model: WholeModel, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await ask(pilot, screen, "Count to a thousand")
        await until(pilot, lambda: bool(screen.query(AnswerView)) and bool(screen.query(AnswerView).last().text))

    with running_api(ANY_PORT, whole_model, stand_in=HaltingNode(whole_model)) as api:
        publish_api(api, tmp_path)
        in_chat(tmp_path, act)
    with History(places(tmp_path).conversations_file) as history:
        assert history.load(history.listed()[0].id).turns[-1].remark == "Stopped."


def test_waiting_is_said_and_can_be_stopped(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await until(pilot, lambda: screen.query_one(ModelPicker).chosen == MODEL)
        await ask(pilot, screen, "Hello?")
        await until(pilot, lambda: about(screen) == f"waiting: {MODEL} is loading, 25 % done")
        await pilot.press("escape")
        assert await answered(pilot, screen) == ""
        assert about(screen) == "Stopped."

    with running_api(ANY_PORT) as api:
        publish_api(api, tmp_path)
        in_chat(tmp_path, act)


def test_error_is_in_the_words_of_the_api_and_can_be_tried_again(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        api.node.failure = GenerationError("hop attic was silent [for] 2 s")
        await ask(pilot, screen, "Hi")
        assert await answered(pilot, screen) == ""
        assert "hop attic was silent [for] 2 s" in about(screen)
        assert "Ctrl+R tries again" in about(screen)
        api.node.failure = None
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(api.node.asked) == 2)
        assert await answered(pilot, screen)
        assert len(screen.conversation.turns) == 2

    in_chat(tmp_path, act)


def test_last_question_can_be_answered_again_and_written_anew(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await ask(pilot, screen, "Say one")
        first = await answered(pilot, screen)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(api.node.asked) == 2)
        assert await answered(pilot, screen) == first
        await pilot.press("up", "escape", "up", "!", "enter")
        await until(pilot, lambda: len(api.node.asked) == 3)
        await answered(pilot, screen)
        assert [turn.content for turn in screen.conversation.turns][::2] == ["Say one!"]
        assert len(screen.query(AnswerView)) == 1

    in_chat(tmp_path, act)
    assert len(api.node.asked) == 3


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
def test_line_breaks_do_not_send(tmp_path: Path, key: str) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await pilot.press("a", key, "b")
        assert screen.query_one(QuestionBox).text == "a\nb"

    in_chat(tmp_path, act)


def test_daemon_that_goes_away_leaves_the_partial_answer(whole_model: WholeModel, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        with running_api(ANY_PORT, whole_model, stand_in=HaltingNode(whole_model)) as api:
            publish_api(api, tmp_path)
            await ready(pilot, screen)
            await ask(pilot, screen, "Count")
            await until(pilot, lambda: bool(screen.query(AnswerView)) and bool(screen.query(AnswerView).last().text))
            withdraw_api(tmp_path)
        assert await answered(pilot, screen)
        assert "stopped before the answer was complete" in about(screen)

    in_chat(tmp_path, act)


@pytest.mark.parametrize("size", [(60, 16), (40, 12), (200, 60)])
def test_it_can_be_used_at_any_size(api: RunningApi, tmp_path: Path, size: tuple[int, int]) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await ready(pilot, screen)
        await ask(pilot, screen, "Say hello")
        await answered(pilot, screen)
        for shown in (QuestionBox, AnswerView, StatusLine):
            region = screen.query(shown).last().region
            assert region.height >= 1
            assert screen.region.contains_region(region)

    in_chat(tmp_path, act, size=size)


def test_models_cannot_steer_the_terminal() -> None:
    assert harmless("a\x1b[31mb\x07\u202ec\n\td") == "a[31mbc\n\td"
