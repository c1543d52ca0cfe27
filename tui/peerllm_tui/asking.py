"""One question to the daemon, answered in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from peerllm.errors import ModelLoading, NoPeers, PeerllmError
from peerllm_tui.conversation import Conversation
from peerllm_tui.daemon import Daemon

if TYPE_CHECKING:
    from peerllm.local.accounts import RequestAccount
    from peerllm.local.client import ChatDone, LocalClient

WAIT_S = 120.0
"""For peers and loading, as `peerllm run` waits."""


@dataclass(frozen=True)
class Noted:
    """Who sees the prompt, or what the answer waits for."""

    text: str


@dataclass(frozen=True)
class Reasoned:
    text: str


@dataclass(frozen=True)
class Piece:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The last of all; `account` is None if the daemon has none."""

    done: ChatDone
    account: RequestAccount | None


@dataclass(frozen=True)
class Failed:
    """The last of all: what went wrong, in the API's words."""

    message: str


@dataclass(frozen=True)
class Stopped:
    """The last of all: it was told to."""


Happening = Noted | Reasoned | Piece | Ended | Failed | Stopped


class Asking:
    """The answer to the last question of a conversation, told piece by piece."""

    def __init__(self, daemon: Daemon, conversation: Conversation, *, wait_s: float = WAIT_S) -> None:
        self.conversation = conversation
        self._daemon = daemon
        self._wait_s = wait_s
        self._stopping = threading.Event()
        self._client: LocalClient | None = None
        self._heard_any = False

    def stop(self) -> None:
        """From any thread: end the answer; the daemon frees its route."""
        self._stopping.set()
        if self._client is not None:
            self._client.hang_up()

    def run(self, heard: Callable[[Happening], None]) -> None:
        """Blocks until the answer has ended, which the last happening says."""
        try:
            last = self._wait_for_answer(heard)
        except PeerllmError as error:
            last = Failed(str(error))
        heard(Stopped() if self._stopping.is_set() else last)

    def _wait_for_answer(self, heard: Callable[[Happening], None]) -> Happening:
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                return self._answer(heard)
            except (ModelLoading, NoPeers) as reason:
                if self._heard_any or time.monotonic() > deadline:
                    raise
                heard(Noted(f"waiting: {reason}"))
                if self._stopping.wait(1.0):
                    return Stopped()

    def _answer(self, heard: Callable[[Happening], None]) -> Happening:
        from peerllm.local.client import ChatDone

        asked = self.conversation
        with self._daemon.client() as client:
            self._client = client
            pieces = client.chat(
                asked.model,
                asked.messages(),
                options=asked.sampling.options(),
                noted=lambda text: heard(Noted(text)),
                reasoned=lambda text: heard(Reasoned(text)),
            )
            with contextlib.closing(pieces):
                for piece in pieces:
                    if self._stopping.is_set():
                        return Stopped()
                    if isinstance(piece, ChatDone):
                        return Ended(piece, _account(client, piece.id))
                    self._heard_any = True
                    heard(Piece(piece))
        raise PeerllmError("the answer broke off: the daemon closed the connection")


@dataclass
class AnswerOver(Message):
    """An answer has ended, and this is its text; `remark` is what is to be known of one that is not whole."""

    asking: Asking
    text: str
    remark: str
    ended: Ended | None = None


def _account(client: LocalClient, request_id: str) -> RequestAccount | None:
    try:
        return client.request(request_id) if request_id else None
    except PeerllmError:  # the answer is whole all the same
        return None
