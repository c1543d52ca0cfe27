"""What stands in a conversation before its first question: how to begin, and what is missing for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Button, Input, Static

from peerllm.errors import PeerllmError
from peerllm.local.inert_text import inert
from peerllm_tui.preparation import ALONE, HINT, NO_DAEMON, is_alone, preparation

if TYPE_CHECKING:
    from peerllm_tui.app import Facts, PeerllmApp


class Welcome(Vertical):
    """Shows no more than is needed: a button while no daemon runs, a field while no other machine is in view."""

    DEFAULT_CSS = """
    Welcome { height: auto; padding: 1 1; }
    Welcome Static { color: $text-muted; margin: 0 0 1 0; }
    Welcome #progress { color: $text-warning; }
    Welcome Button { margin: 0 0 1 0; }
    Welcome #join-problem { color: $text-error; display: none; }
    Welcome.-refused #join-problem { display: block; }
    Welcome #start, Welcome #join, Welcome #alone, Welcome #progress { display: none; }
    Welcome.-no-daemon #start, Welcome.-alone #join, Welcome.-alone #alone { display: block; }
    Welcome.-preparing #progress { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._hint = Static(HINT, id="hint", markup=False)
        self._progress = Static(id="progress", markup=False)
        self._way = Input(placeholder="invitation, or HOST[:PORT]; Enter joins", id="join", compact=True)
        self._problem = Static(id="join-problem", markup=False)

    def compose(self) -> ComposeResult:
        yield self._hint
        yield self._progress
        yield Button("Start the daemon (F4)", id="start", variant="primary", compact=True, action="app.start_daemon")
        yield Static(ALONE, id="alone", markup=False)
        yield self._way
        yield self._problem

    def on_mount(self) -> None:
        self.watch(self.app, "facts", self._show)

    def _show(self, facts: Facts | None) -> None:
        coming = "" if facts is None else preparation(facts.status.lifecycle)
        self._hint.update(HINT if facts else NO_DAEMON)
        self._progress.update(coming)
        self.set_class(facts is None, "-no-daemon")
        self.set_class(bool(coming), "-preparing")
        self.set_class(facts is not None and is_alone(facts.status), "-alone")

    @on(Input.Submitted, "#join")
    def _submit(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip():
            event.input.disabled = True
            self._join(event.value.strip())

    @work(thread=True, exclusive=True)
    def _join(self, way: str) -> None:
        app = cast("PeerllmApp", self.app)
        try:
            with app.daemon.client() as client:
                swarm = client.join(way)
        except PeerllmError as error:
            app.call_from_thread(self._joined, "", str(error))
        else:
            app.call_from_thread(self._joined, swarm, "")

    def _joined(self, swarm: str, problem: str) -> None:
        self._way.disabled = False
        self._problem.update(inert(problem))
        self.set_class(bool(problem), "-refused")
        if problem:
            self._way.focus()
        else:
            self._way.clear()
            self.notify(f"this machine is in the swarm {inert(swarm, 40)} now", markup=False)
