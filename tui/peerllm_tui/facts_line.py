"""Below the conversation: what the last answer took, or what the owner is about to do."""

from __future__ import annotations

from textual.widgets import Static

from peerllm_tui.asking import Ended
from peerllm_tui.wording import answer_facts, route_facts


class FactsLine(Static):
    """Not there while there is nothing to say."""

    DEFAULT_CSS = """
    FactsLine { height: auto; max-height: 3; color: $text-muted; padding: 0 1; display: none; }
    .-short FactsLine { max-height: 2; }
    FactsLine.said { display: block; }
    """

    def __init__(self) -> None:
        super().__init__("", id="facts", markup=False)

    def say(self, text: str) -> None:
        self.update(text)
        self.set_class(bool(text), "said")

    def tell(self, ended: Ended, context_tokens: int) -> None:
        """How much, how fast and through whom, and how full the context is."""
        self.say(f"{answer_facts(ended.done, context_tokens)}\n{route_facts(ended.done, ended.account)}")
