"""``peerllm run MODEL [PROMPT]``: one streamed answer, or a chat line by line."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from peerllm.cli.environment import connect
from peerllm.cli.output import ProgressLine, paint, print_json, short_route
from peerllm.errors import ModelLoading, NoPeers, NotRunning, PeerllmError, UsageError

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.client import ChatDone, ChatMessage, LocalClient

_BYE = "/bye"
_PROMPT = ">>> "
_ASK_AGAIN_S = 1.0
_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")


def add_commands(verbs: Subparsers) -> None:
    run = verbs.add_parser(
        "run",
        help="chat with a model through the swarm",
        description="Answer PROMPT; without one, answer what is piped in, or open a chat (leave it with /bye).",
    )
    run.set_defaults(run=_run)
    run.add_argument("model", metavar="MODEL", help="as in `peerllm list` or GET /v1/models")
    run.add_argument("prompt", metavar="PROMPT", nargs="?", help="the question; - reads it from stdin")
    run.add_argument("--system", metavar="TEXT", help="instructions before the conversation")
    run.add_argument("--temperature", type=float, metavar="X", help="0 always takes the likeliest token")
    run.add_argument("--top-p", type=float, metavar="X")
    run.add_argument("--top-k", type=int, metavar="N")
    run.add_argument("--min-p", type=float, metavar="X")
    run.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    run.add_argument("--max-tokens", type=int, metavar="N")
    run.add_argument("--wait", type=float, default=120.0, metavar="S", help="for peers and loading, default 120 s")
    run.add_argument("--stats", action="store_true", help="tokens, speed and route on stderr after each answer")
    run.add_argument("--json", action="store_true", help="one JSON object instead of a stream")


def _run(arguments: argparse.Namespace) -> int:
    prompt = _given_prompt(arguments)
    with connect_or_start() as client:
        chat = Chat(
            client,
            arguments.model,
            options={name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name) is not None},
            system=arguments.system,
            wait_s=arguments.wait,
            stats=arguments.stats,
            quiet=arguments.json,
        )
        if prompt is None:
            return chat.converse()
        done = chat.answer(prompt)
    if arguments.json:
        print_json({"answer": chat.last_answer, **_facts(done)})
    return 0


class Chat:
    """A conversation with one model; keeps its history."""

    def __init__(
        self,
        client: LocalClient,
        model: str,
        *,
        options: Mapping[str, Any] | None = None,
        system: str | None = None,
        wait_s: float = 120.0,
        stats: bool = False,
        quiet: bool = False,
    ) -> None:
        """`options` are fields of OpenAI's request; `wait_s` is for peers and loading; `quiet` prints no answers."""
        from peerllm.local.client import ChatMessage

        self._client = client
        self._model = model
        self._options = options or {}
        self._wait_s = wait_s
        self._stats = stats
        self._quiet = quiet
        self._message = ChatMessage
        self._partial = self._noted = ""
        self._history: list[ChatMessage] = [ChatMessage("system", system)] if system else []

    @property
    def last_answer(self) -> str:
        return self._history[-1].content

    def converse(self) -> int:
        """Questions from the terminal until /bye or end of file; Ctrl-C ends an answer, at the prompt the chat."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing and history
        while True:
            try:
                question = input(_PROMPT).strip()
            except EOFError:
                print()
                return 0
            if question == _BYE:
                return 0
            if question:
                self._answer_or_explain(question)

    def _answer_or_explain(self, question: str) -> None:
        """One turn; what goes wrong is said, and the conversation goes on without that turn."""
        turns = len(self._history)
        try:
            self.answer(question)
        except NotRunning:
            raise
        except PeerllmError as error:
            print(f"{chr(10) * bool(self._partial)}peerllm: {error}", file=sys.stderr)
            self._keep_partial(turns)
        except KeyboardInterrupt:
            print(paint(" (stopped)", "dim"))
            self._keep_partial(turns)

    def _keep_partial(self, turns: int) -> None:
        """The conversation goes on behind what has been answered so far, or without the turn if that is nothing."""
        if self._partial:
            self._history.append(self._message("assistant", self._partial))
        else:
            del self._history[turns:]

    def answer(self, question: str) -> ChatDone:
        """Stream the answer to stdout; waits while the model loads or peers are missing."""
        self._history.append(self._message("user", question))
        deadline = time.monotonic() + self._wait_s
        with ProgressLine() as line:
            while True:
                try:
                    return self._stream(line)
                except (ModelLoading, NoPeers) as reason:
                    if self._partial or time.monotonic() > deadline:
                        raise
                    line.show(f"waiting: {reason}")
                    time.sleep(_ASK_AGAIN_S)

    def _stream(self, line: ProgressLine) -> ChatDone:
        from peerllm.local.client import ChatDone

        self._partial = ""
        answer = self._client.chat(self._model, self._history, options=self._options, noted=partial(self._note, line))
        with contextlib.closing(answer) as pieces:
            for piece in pieces:
                if isinstance(piece, ChatDone):
                    self._history.append(self._message("assistant", self._partial))
                    self._end(piece)
                    return piece
                if not self._partial:
                    line.clear()
                self._partial += piece
                self._show(piece)
        raise PeerllmError("the answer broke off: the daemon closed the connection")

    def _note(self, line: ProgressLine, note: str) -> None:
        """Once who sees the prompt, and, on a line of its own, what keeps an answer waiting."""
        if self._quiet or note == self._noted:
            return
        self._noted = note
        if self._partial:
            print(file=sys.stderr)
        line.clear()
        print(paint(_harmless(note), "dim", sys.stderr), file=sys.stderr)

    def _show(self, piece: str) -> None:
        if not self._quiet:
            sys.stdout.write(_harmless(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()

    def _end(self, done: ChatDone) -> None:
        if not self._quiet:
            print()
        if self._stats:
            speed = f"first after {done.ttft_s:.2f} s, {done.tokens_per_s:.1f}/s"
            guessed = f"{done.accepted_per_round:.1f} guessed right per round, " if done.accepted_tokens else ""
            facts = f"{done.completion_tokens} tokens, {speed}, {guessed}{short_route(done.route)}"
            print(paint(facts, "dim", sys.stderr), file=sys.stderr)


def _given_prompt(arguments: argparse.Namespace) -> str | None:
    """The prompt of an argument or a pipe; None opens a chat."""
    if arguments.prompt not in (None, "-"):
        return arguments.prompt
    if sys.stdin.isatty() and arguments.prompt is None:
        if arguments.json:
            raise UsageError("--json needs a PROMPT, or one piped in")
        return None
    prompt = sys.stdin.read().strip()
    if not prompt:
        raise UsageError("there is no prompt: give one as an argument or pipe one in")
    return prompt


def connect_or_start() -> LocalClient:
    """A client of the running daemon, or of one that is started for it."""
    try:
        return connect()
    except NotRunning:
        from peerllm.cli.daemon import start

        print("no daemon is running; starting one (it stays, `peerllm down` stops it)", file=sys.stderr)
        return start({})


def _facts(done: ChatDone) -> dict[str, Any]:
    from dataclasses import asdict

    return {name: value for name, value in asdict(done).items() if name != "tokens"}


def _harmless(text: str) -> str:
    """A model must not steer the terminal: no escape sequences."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
