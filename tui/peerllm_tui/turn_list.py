"""The turns of the conversation on the screen; follows an answer unless its reader has scrolled up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import VerticalScroll
from textual.widget import Widget

from peerllm_tui.conversation import USER, Conversation, Turn
from peerllm_tui.welcome import Welcome

if TYPE_CHECKING:
    from peerllm_tui.asking import Asking
    from peerllm_tui.turn_views import AnswerView


class TurnList(VerticalScroll, can_focus=False):
    DEFAULT_CSS = """
    TurnList { height: 1fr; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: AnswerView | None = None

    @property
    def answer_so_far(self) -> str:
        """Of the answer that was begun last."""
        return self._last.text if self._last is not None else ""

    async def show(self, conversation: Conversation) -> None:
        views: list[Widget] = [_view(turn) for turn in conversation.turns]
        with self.app.batch_update():
            await self.remove_children()
            await self.mount_all(views or [Welcome()])
        self.anchor()

    async def begin_answer(self, asking: Asking, own_id: str) -> None:
        from peerllm_tui.streamed_answer import StreamedAnswer

        self._last = StreamedAnswer(asking, own_id)
        await self.mount(self._last)
        self.anchor()


def _view(turn: Turn) -> Widget:
    from peerllm_tui.turn_views import AnswerView, QuestionView  # Markdown, which an empty chat need not wait for

    return QuestionView(turn.content) if turn.role == USER else AnswerView(turn.content, turn.remark)
