"""The app: its screens, the daemon behind them, and what holds on all of them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from peerllm.errors import NotRunning, PeerllmError
from peerllm.local.inert_text import inert
from peerllm.local.lending import GuestStatus
from peerllm.local.schema import Status
from peerllm.locations import Locations
from peerllm_tui.daemon import Daemon
from peerllm_tui.history import open_history
from peerllm_tui.status_line import StatusLine
from peerllm_tui.watch import Watch
from peerllm_tui.wording import daemon_state

if TYPE_CHECKING:
    from peerllm.local.client import LocalClient

DARK, LIGHT = "textual-dark", "textual-light"

_START_S = 30.0
_NO_DAEMON = "no daemon runs; F4 starts one"
_STARTING = "starting the daemon …"


@dataclass(frozen=True)
class Facts:
    """One look at a running daemon."""

    status: Status
    guest: GuestStatus
    models: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def through(cls, client: LocalClient) -> Facts:
        return cls(client.status(), client.guest(), tuple(client.models()))


@runtime_checkable
class HasCommands(Protocol):
    """A screen with commands of its own."""

    def get_commands(self) -> Iterable[SystemCommand]: ...


class PeerllmApp(App[None]):
    """Chat, swarm and contribution of one home; works without a daemon, and takes up again when there is one."""

    TITLE = "peerllm"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "show('chat')", "Chat", show=False, priority=True),
        Binding("f2", "show('swarm')", "Swarm", show=False, priority=True),
        Binding("f3", "show('contribute')", "Contribute", show=False, priority=True),
        Binding("f4", "start_daemon", "Start the daemon", priority=True),
        Binding("ctrl+t", "toggle_light", "Light/dark", show=False, priority=True),
    ]

    facts: reactive[Facts | None] = reactive(None)
    """None while there is no daemon; `problem` then says why."""

    def __init__(
        self,
        locations: Locations,
        *,
        model: str = "",
        keep_history: bool = True,
        launch: Callable[[Locations], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        """`model` is asked at first, else one that is ready; without `keep_history` nothing is written to disk.

        `launch` starts a daemon in another way than `peerllm up` does.
        """
        super().__init__()
        self._launch = launch
        self.daemon = Daemon(locations)
        self.problem = "looking for the daemon …"
        self.first_model = model
        self.history, self._history_problem = open_history(locations, keep=keep_history)
        self._asked_file = locations.asked_file
        self._starting = False
        self._launched: subprocess.Popen[bytes] | None = None  # held on to, or it would stay a zombie when it ends
        self._watch = Watch(self.daemon, Facts.through, self._found)
        self._openers: dict[str, Callable[[], Screen[Any]]] = {
            "chat": _chat_screen,
            "swarm": _swarm_screen,
            "contribute": _contribute_screen,
        }

    def on_mount(self) -> None:
        self.theme = DARK
        self.action_show("chat")
        if self._history_problem:
            self.notify(self._history_problem, severity="warning", timeout=15, markup=False)
        # after the first paint: a daemon that is slow to answer must not keep the screen empty
        self.call_after_refresh(self._follow)

    def on_unmount(self) -> None:
        self.history.close()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, HasCommands):
            yield from screen.get_commands()
        yield SystemCommand("Chat", "Ask a model of the swarm (F1)", lambda: self.action_show("chat"))
        yield SystemCommand("Swarm", "Who serves which blocks (F2)", lambda: self.action_show("swarm"))
        yield SystemCommand("Contribute", "What this machine lends (F3)", lambda: self.action_show("contribute"))
        yield SystemCommand("Light or dark", "Change between the two (Ctrl+T)", self.action_toggle_light)
        if self.facts is not None and not self.facts.guest.consented:
            yield SystemCommand("Lend this computer", "What that means, before it begins", self._ask_consent)
        if self.facts is None:
            yield SystemCommand("Start the daemon", "It stays; `peerllm down` stops it (F4)", self.action_start_daemon)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "start_daemon":
            return self.facts is None and not self._starting
        return True

    def action_show(self, name: str) -> None:
        """Bring one of the screens to the front; each is made when it is first asked for."""
        if isinstance(self.screen, Screen) and self.screen.is_modal:
            return
        if not self.is_screen_installed(name):
            self.install_screen(self._openers[name](), name)
        target = self.get_screen(name)
        if self.screen is target:
            return
        if len(self.screen_stack) > 1:
            self.switch_screen(target)
        else:
            self.push_screen(target)
        self.call_after_refresh(self._head, target, name)

    def action_toggle_light(self) -> None:
        self.theme = DARK if self.theme == LIGHT else LIGHT

    def action_start_daemon(self) -> None:
        self._starting = True
        self._say(_STARTING)
        self._start_daemon()

    @work(thread=True, exclusive=True, group="start")
    def _start_daemon(self) -> None:
        from peerllm.local.launch import launch_daemon, wait_until_answering

        locations = self.daemon.locations
        try:
            self._launched = (self._launch or launch_daemon)(locations)
            wait_until_answering(locations, self._launched, timeout_s=_START_S, report=self._setting_up).close()
        except (PeerllmError, OSError) as error:
            self.call_from_thread(self._started, str(error))
        else:
            self.call_from_thread(self._started, "")

    def _setting_up(self, words: str, fraction: float | None) -> None:
        """The first start fetches what the daemon needs."""
        self.call_from_thread(self._say, words if fraction is None else f"{words} {fraction:.0%}")

    def _started(self, problem: str) -> None:
        self._starting = False
        if problem:
            self.notify(problem, title="The daemon did not start", severity="error", timeout=15, markup=False)
            self._say(_NO_DAEMON)
        self._watch.hasten()
        self.refresh_bindings()

    @work(exclusive=True, group="consent")
    async def _ask_consent(self) -> None:
        """On first opening, and by the palette: nothing is lent before the owner has said yes."""
        from peerllm_tui.consent import Consent, consented

        if self.facts is None:
            return
        self._asked_file.touch(mode=0o600)
        policy = await self.push_screen_wait(Consent(self.facts.status))
        if not policy:
            self.notify("F3 lends this computer whenever you want to", markup=False)
            return
        try:
            await asyncio.to_thread(self._tell, consented(policy))
        except PeerllmError as error:
            self.notify(inert(str(error)), title="Nothing is lent", severity="error", timeout=15, markup=False)
        self._watch.hasten()

    def _tell(self, order: Callable[[LocalClient], None]) -> None:
        with self.daemon.client() as client:
            order(client)

    @work(exclusive=True, group="watch")
    async def _follow(self) -> None:
        await self._watch.run()

    def _found(self, seen: Facts | PeerllmError) -> None:
        if isinstance(seen, Facts):
            self.facts = seen
            self._say(daemon_state(seen.status))
            if not (seen.guest.consented or self.screen.is_modal or self._asked_file.exists()):
                self._ask_consent()
        else:
            self.facts = None
            self._say(_STARTING if self._starting else _NO_DAEMON if isinstance(seen, NotRunning) else inert(str(seen)))

    def _say(self, text: str) -> None:
        self.problem = text
        for name in self._openers:
            if self.is_screen_installed(name):
                self._head(self.get_screen(name), name)
        self.refresh_bindings()

    def _head(self, screen: Screen[Any], name: str) -> None:
        """The status line of one of the screens, once that is there."""
        if not screen.is_mounted:
            return
        lines = screen.query(StatusLine)
        line = lines.first() if lines else StatusLine(name)
        if not lines:
            screen.mount(line, before=0)
        line.said = self.problem
        line.state = self.facts.status.lifecycle.name if self.facts else ""


def _chat_screen() -> Screen[Any]:
    from peerllm_tui.chat_screen import ChatScreen

    return ChatScreen()


def _swarm_screen() -> Screen[Any]:
    from peerllm_tui.swarm_screen import SwarmScreen

    return SwarmScreen()


def _contribute_screen() -> Screen[Any]:
    from peerllm_tui.contribute_screen import ContributeScreen

    return ContributeScreen()
