"""The model that is asked: one of /v1/models, each with its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textual.content import Content
from textual.widgets import Select

from peerllm.local.inert_text import inert
from peerllm_tui.wording import NO_MODEL, model_state


class ModelPicker(Select[str]):
    DEFAULT_CSS = """
    ModelPicker { width: 1fr; height: 1; }
    """

    def __init__(self, wanted: str) -> None:
        """`wanted` is chosen once it is there."""
        super().__init__([(NO_MODEL, "")], allow_blank=False, compact=True)
        self._wanted = wanted
        self._shown: list[tuple[str, str]] = []
        self._cards: Sequence[Mapping[str, Any]] = ()

    @property
    def chosen(self) -> str:
        """Its name; "" if there is no model."""
        return str(self.value)

    @property
    def context_tokens(self) -> int:
        """How many fit into the context of the chosen model; 0 if unknown."""
        size = next((card.get("context_tokens") for card in self._cards if card.get("id") == self.chosen), 0)
        return size if isinstance(size, int) else 0

    def show(self, cards: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the choice while it is there; at first it is the first of the list, which is ready if any is."""
        self._cards = cards
        models = [(str(card.get("id", "")), model_state(card)) for card in cards]
        if models == self._shown:
            return
        self._shown = models
        before = self.chosen or self._wanted
        with self.prevent(Select.Changed):
            options = [(Content(f"{inert(name)} · {state}"), name) for name, state in models]
            self.set_options(options or [(Content(NO_MODEL), "")])
            self.prefer(before)

    def prefer(self, name: str) -> None:
        """Choose it if it is there, or once it is."""
        if name in [name for name, _ in self._shown]:
            self.value = name
        elif name and not self._shown:
            self._wanted = name
