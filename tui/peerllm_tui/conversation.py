"""A conversation as a value: its turns, what the model is shown of them, and by which terms it answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peerllm.errors import UsageError

if TYPE_CHECKING:
    from peerllm.local.client import ChatMessage

TITLE_CHARS = 60
UNTITLED = "New conversation"

USER = "user"
ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """A question or an answer; `remark` is what is to be known of an answer that is not whole."""

    role: str
    content: str
    remark: str = ""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; what is None is left to the daemon."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature is between 0 and 2, not {self.temperature:g}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is above 0 and at most 1, not {self.top_p:g}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max tokens is at least 1, not {self.max_tokens}")

    def options(self) -> dict[str, Any]:
        """Fields of OpenAI's request."""
        fields = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Conversation:
    """Questions and answers in turn. `id` is 0 until it is kept, `title` is "" for that of its first question."""

    id: int = 0
    title: str = ""
    model: str = ""
    system: str = ""
    sampling: Sampling = Sampling()
    turns: tuple[Turn, ...] = ()

    @property
    def name(self) -> str:
        """The title, or the beginning of the first question."""
        return self.title or _beginning(self.turns[0].content if self.turns else "") or UNTITLED

    @property
    def last_question(self) -> str:
        """ "" before the first one."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == USER), "")

    @property
    def last_answer(self) -> str:
        """ "" if the last question has none."""
        return self.turns[-1].content if self.turns and self.turns[-1].role == ASSISTANT else ""

    def asked(self, question: str) -> Conversation:
        """With one more question; one that got no answer makes way: templates want turns to alternate."""
        turns = self.turns[:-1] if self.turns and self.turns[-1].role == USER else self.turns
        return replace(self, turns=(*turns, Turn(USER, question)))

    def answered(self, answer: str, remark: str = "") -> Conversation:
        """With an answer, unless it is empty."""
        return replace(self, turns=(*self.turns, Turn(ASSISTANT, answer, remark))) if answer else self

    def without_last_answer(self) -> Conversation:
        return replace(self, turns=self.turns[:-1]) if self.last_answer else self

    def without_last_question(self) -> Conversation:
        """Back before the last question and its answer."""
        turns = self.without_last_answer().turns
        return replace(self, turns=turns[:-1])

    def messages(self) -> list[ChatMessage]:
        """What the model is shown."""
        from peerllm.local.client import ChatMessage

        system = [ChatMessage("system", self.system)] if self.system.strip() else []
        return [*system, *(ChatMessage(turn.role, turn.content) for turn in self.turns)]


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else f"{line[: TITLE_CHARS - 1].rstrip()}…"
