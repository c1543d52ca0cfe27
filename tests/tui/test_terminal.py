"""`peerllm chat` in a real terminal: keys go in through tmux, and what is drawn is read off its screen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerllm_tui.history import History
from tests.api.conftest import ANY_PORT
from tests.support.chat_pilot import HaltingNode
from tests.support.running_api import running_api
from tests.support.screens import places, publish_api
from tests.support.whole_model_node import WholeModel

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt install tmux)"),
]

_WAIT_S = 60.0


class Terminal:
    """A terminal of 100 columns by 30 lines, with a tmux server of its own."""

    def __init__(self, socket: Path) -> None:
        self._tmux = ("tmux", "-S", str(socket), "-f", os.devnull)

    def open(self, command: str) -> None:
        self._run("new-session", "-d", "-x", "100", "-y", "30", command)

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def write(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def shows(self, *texts: str) -> None:
        self.eventually(lambda: all(text in self.screen() for text in texts), f"{texts} in\n{self.screen()}")

    def eventually(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.1)

    def is_open(self) -> bool:
        return subprocess.run([*self._tmux, "has-session"], capture_output=True).returncode == 0

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("t") / "s")  # paths of sockets are short
    yield terminal
    terminal.close()


def chat(home: Path) -> str:
    return shlex.join(["env", f"PEERLLM_HOME={home}", "TERM=tmux-256color", sys.executable, "-m", "peerllm", "chat"])


def test_chat_is_driven_by_keys(whole_model: WholeModel, terminal: Terminal, tmp_path: Path) -> None:
    with running_api(ANY_PORT, whole_model, stand_in=HaltingNode(whole_model)) as api:
        publish_api(api, tmp_path)
        terminal.open(chat(tmp_path))
        terminal.shows("F1 Chat", "smollm2-135m · ready", "Your question")
        terminal.write("Say hello")
        terminal.shows("Say hello")
        terminal.press("Enter")
        terminal.eventually(lambda: api.node.answering == 1, "it answers")
        terminal.press("Escape")
        terminal.shows("Stopped.")
        terminal.eventually(lambda: api.node.answering == 0, "the daemon has been told")
        terminal.press("F2")
        terminal.shows("served by", "alone (you)")
        terminal.press("F3")
        terminal.shows("What decides", "This machine lends nothing")
        terminal.press("Space")
        terminal.shows("Lend this computer?", "What it costs")
        assert not api.node.sharing
        terminal.press("y")
        terminal.eventually(lambda: api.node.sharing, "the machine is lent")
        terminal.press("C-q")
        terminal.eventually(lambda: not terminal.is_open(), "the screens are left")
    with History(places(tmp_path).conversations_file) as history:
        assert [each.name for each in history.listed("hello")] == ["Say hello"]
