"""An answer while it is being given: asked for in a thread, shown as it comes, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on, work
from textual.message import Message

from peerllm_tui.asking import AnswerOver, Asking, Ended, Failed, Happening, Noted, Piece, Reasoned
from peerllm_tui.turn_views import AnswerView
from peerllm_tui.wording import ENDS, SEEN_BY, STOPPED, WAITING, seen_by


class StreamedAnswer(AnswerView):
    """Begins when it is mounted; `AnswerOver` is the last of it."""

    @dataclass
    class Heard(Message):
        happening: Happening

    def __init__(self, asking: Asking, own_id: str) -> None:
        """`own_id` is this machine's peer id, "" if unknown."""
        super().__init__(remark=WAITING)
        self._asking = asking
        self._own_id = own_id
        self._note = ""

    def on_mount(self) -> None:
        self._ask()

    def on_unmount(self) -> None:
        self._asking.stop()

    @work(thread=True, group="answer")
    def _ask(self) -> None:
        def tell(happening: Happening) -> None:
            self.post_message(self.Heard(happening))

        self._asking.run(tell)

    @on(Heard)
    async def _hear(self, event: Heard) -> None:
        event.stop()
        match event.happening:
            case Noted(text):
                self._note = text
                self.about(text)
            case Reasoned(text):
                self.reason(text)
            case Piece(text):
                if not self.text:
                    self.about(self._lasting_note)
                await self.add(text)
            case last:
                await self.end()
                self.post_message(self._over(last))

    def _over(self, last: Happening) -> AnswerOver:
        if isinstance(last, Ended):
            remark = ENDS.get(last.done.reason, "")
            self.about(" ".join(filter(None, (remark, self._seen_by(last)))))
            return AnswerOver(self._asking, self.text, remark, last)
        if isinstance(last, Failed):
            again = "" if self.text else " Ctrl+R tries again."
            self.about(f"{last.message}{again}", failed=True)
            return AnswerOver(self._asking, self.text, last.message)
        self.about(STOPPED)
        return AnswerOver(self._asking, self.text, STOPPED)

    def _seen_by(self, ended: Ended) -> str:
        if ended.account is None or not ended.account.hops or not self._own_id:
            return self._lasting_note
        return seen_by(ended.account, self._own_id)

    @property
    def _lasting_note(self) -> str:
        """The one that stays true when there is text."""
        return self._note if SEEN_BY in self._note else ""
