"""The chat of the whole app, used as its owner does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from peerllm.generation.answer import AnswerEvent, Delta
from peerllm.generation.answer_request import AnswerRequest
from peerllm_tui.app import PeerllmApp
from peerllm_tui.chat_screen import ChatScreen
from peerllm_tui.conversation import Conversation, Sampling, Turn
from peerllm_tui.history import History
from peerllm_tui.model_picker import ModelPicker
from peerllm_tui.question_box import QuestionBox
from peerllm_tui.status_line import StatusLine
from tests.support.screens import places, until, words
from tests.support.whole_model_node import MODEL, WholeModelNode

Act = Callable[[Pilot[None], ChatScreen], Awaitable[None]]

SHORT = Sampling(temperature=0, max_tokens=6)
TALK = Conversation(
    title="Bread",
    model=MODEL,
    sampling=SHORT,
    turns=(Turn("user", "How?"), Turn("assistant", "So:\n```py\nbake(1)\n```\nor\n```\nbake 2\n```\n")),
)


class HaltingNode(WholeModelNode):
    """Its answers begin, and then go no further."""

    async def answer(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
        begun = 0
        async for event in super().answer(request):
            yield event
            begun += isinstance(event, Delta)
            if begun == 3:
                await asyncio.Event().wait()


def in_app(
    home: Path, act: Callable[[Pilot[None]], Awaitable[None]], *, size: tuple[int, int] = (110, 34), keep: bool = True
) -> PeerllmApp:
    """The app, once `act` is through with it."""
    app = PeerllmApp(places(home), keep_history=keep)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await act(pilot)

    asyncio.run(asyncio.wait_for(run(), 60))
    return app


def in_chat(home: Path, act: Act, *, size: tuple[int, int] = (110, 34), keep: bool = True) -> PeerllmApp:
    """The app, once `act` is through with its chat."""

    async def chat(pilot: Pilot[None]) -> None:
        app = pilot.app
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and bool(app.screen.query(StatusLine)))
        assert isinstance(app.screen, ChatScreen)
        await act(pilot, app.screen)

    return in_app(home, chat, size=size, keep=keep)


async def ready(pilot: Pilot[None], screen: ChatScreen, sampling: Sampling = SHORT) -> None:
    """The model is there to be asked, for short answers."""
    await until(pilot, lambda: screen.query_one(ModelPicker).chosen == MODEL)
    await pilot.press("ctrl+s")
    await pilot.pause()
    for name, value in sampling.options().items():
        pilot.app.screen.query_one(f"#{name}", Input).value = str(value)
    await pilot.press("ctrl+s")
    await until(pilot, lambda: screen.conversation.sampling == sampling)


async def ask(pilot: Pilot[None], screen: ChatScreen, question: str) -> None:
    screen.query_one(QuestionBox).text = question
    await pilot.press("enter")
    await until(pilot, lambda: screen.conversation.last_question == question)


async def answered(pilot: Pilot[None], screen: ChatScreen) -> str:
    await until(pilot, lambda: not screen.is_answering)
    await pilot.pause()
    return screen.conversation.last_answer


def about(screen: ChatScreen) -> str:
    """What is said below the last answer."""
    return words(screen, "AnswerView .about").splitlines()[-1]


def keep(home: Path, *conversations: Conversation) -> None:
    places(home).create()
    with History(places(home).conversations_file) as history:
        for conversation in conversations:
            history.save(conversation)
