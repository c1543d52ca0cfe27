"""The owner's yes, without which nothing is lent: what lending means, in plain words, before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from peerllm.local.client import LocalClient
from peerllm.local.inert_text import inert
from peerllm.local.schema import Status
from peerllm_tui.policy_choice import KEY, PolicyChoice


class Consent(ModalScreen[str]):
    """The policy by which this machine is lent; "" for not now."""

    CSS = """
    Consent { align: center middle; }
    Consent > VerticalScroll {
        width: 84; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
        border: round $primary; background: $surface;
    }
    Consent .title { text-style: bold; margin: 0 0 1 0; }
    Consent .answer { margin: 0 0 1 0; }
    Consent PolicyChoice { margin: 0 0 1 0; }
    Consent Horizontal { height: auto; align-horizontal: right; }
    Consent Button { margin-left: 1; }
    """
    AUTO_FOCUS = "PolicyChoice"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "decline", "Not now"), ("y", "agree", "Lend this computer")]

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._answers = what_it_means(status.swarm, public=status.membership.public)

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Static("Lend this computer? Nothing is lent until you say so.", classes="title", markup=False)
            for answer in self._answers:
                yield Static(answer, classes="answer", markup=False)
            yield PolicyChoice(custom=False)
            with Horizontal():
                yield Button("Not now (Esc)", id="no", compact=True)
                yield Button("Lend this computer (y)", id="yes", variant="primary", compact=True)

    @on(Button.Pressed, "#yes")
    def action_agree(self) -> None:
        self.dismiss(self.query_one(PolicyChoice).chosen)

    @on(Button.Pressed, "#no")
    def action_decline(self) -> None:
        self.dismiss("")


def what_it_means(swarm: str, *, public: bool) -> tuple[str, ...]:
    """What leaves this machine, what others see, what it costs, how to stop. Pure."""
    who = "anybody who can reach this machine" if public else f"the members of your swarm {inert(swarm, 40)}"
    return (
        f"What it means: {who} may have this computer work out a part of a language model's answers. It fetches that "
        "part of the model once. You can ask the swarm in any case.",
        "What leaves this machine: the numbers it works out, its name, address, peer id and speed, and what it serves. "
        "None of your files, and none of your conversations: lending is not asking.",
        "What others can see: how fast and how busy what you lend is. What passes through here belongs to others: with "
        "effort their text could be read from it, as yours could on the machines that you ask.",
        "What it costs: memory, disk space for the model, electricity, and network traffic; processor time that nobody "
        "else wants. F3 has a limit for each of them.",
        "How to stop: Space on the screen F3, the tray, or `peerllm share off`. It stops at once, and gives the memory "
        "back. When to lend:",
    )


def consented(policy: str) -> Callable[[LocalClient], None]:
    """What to tell the daemon after a yes."""

    def tell(client: LocalClient) -> None:
        client.set_limits({KEY: policy})
        client.share(True)

    return tell
