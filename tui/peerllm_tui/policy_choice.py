"""When this machine lends: one of the presets."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.message import Message
from textual.widgets import RadioButton, RadioSet

from peerllm_tui.guest_text import POLICIES

KEY = "guest.policy"


class PolicyChoice(RadioSet):
    DEFAULT_CSS = """
    PolicyChoice { height: auto; background: transparent; }
    PolicyChoice:focus { background-tint: $foreground 5%; }
    PolicyChoice RadioButton { width: 1fr; }
    """

    @dataclass
    class Chosen(Message):
        policy: str

    def __init__(self, chosen: str = "polite", *, custom: bool = True) -> None:
        """Without `custom`, the presets that need no other limit."""
        names = [name for name in POLICIES if custom or name != "custom"]
        buttons = (RadioButton(POLICIES[name], value=name == chosen, name=name) for name in names)
        super().__init__(*buttons, compact=True)
        self._held = chosen
        """What holds, as far as is known here; only another choice is told."""

    @property
    def chosen(self) -> str:
        return self.pressed_button.name or "" if self.pressed_button else ""

    def show(self, policy: str) -> None:
        """As the daemon has it now."""
        self._held = policy
        for button in self.query(RadioButton):
            if button.name == policy:
                button.value = True

    @on(RadioSet.Changed)
    def _choose(self, event: RadioSet.Changed) -> None:
        event.stop()
        if event.pressed.name and event.pressed.name != self._held:
            self._held = event.pressed.name
            self.post_message(self.Chosen(self._held))
