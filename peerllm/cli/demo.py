"""``peerllm demo``: three real peers on this machine, one split model, and a proof that the tokens are exact."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from peerllm.cli.models import Subparsers
from peerllm.cli.output import short_route
from peerllm.sizes import format_bytes

if TYPE_CHECKING:
    from peerllm.demo.story import DemoResult
    from peerllm.local.client import LocalClient

_CHAT_OPTIONS = {"max_tokens": 400, "temperature": 0.2, "top_p": 0.9}  # as the model's card advises


def add_commands(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="three peers on this machine answer through a split model",
        description="Start three peers, each with room for 12 of the model's 30 blocks, and chat through them.",
    )
    parser.set_defaults(run=demo)
    parser.add_argument("--json", action="store_true", help="ask the fixed question and print one JSON object")
    parser.add_argument(
        "--engine", choices=("auto", "llama", "torch"), default="auto", help="llama waits for its compilation"
    )
    parser.add_argument("--peers", type=int, default=3, metavar="N", help="3 to 8 (default 3)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of the answer to the fixed question")
    parser.add_argument("--question", help="ask this instead of the fixed question, and do not open a chat")


def demo(args: argparse.Namespace) -> int:
    """0 if the tokens are exact."""
    from peerllm.demo.screen import Screen
    from peerllm.demo.story import QUESTION, DemoRequest, run_demo
    from peerllm.errors import UsageError

    if not 3 <= args.peers <= 8 or not 1 <= args.tokens <= 512:
        raise UsageError("--peers takes 3 to 8, --tokens 1 to 512")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not args.json and not args.question
    request = DemoRequest(args.peers, args.engine, args.question or QUESTION, args.tokens)
    result = run_demo(request, Screen(quiet_answer=args.json), _chat if interactive else None)
    if args.json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        _summary(result)
    return 0 if result.exact else 1


def _chat(client: LocalClient, model: str) -> None:
    from peerllm.cli.run import Chat

    Chat(client, model, options=_CHAT_OPTIONS, stats=True).converse()


def _ended(number: int, _: object) -> NoReturn:
    """A signal leaves by the way of every error, on which the peers are stopped."""
    raise SystemExit(128 + number)


def _summary(result: DemoResult) -> None:
    """What happened, in the words of the glossary."""
    verdict = "the same as the whole model's" if result.exact else "NOT those of the whole model: this is a bug"
    print(f"\n{result.tokens} tokens, {result.tokens_per_s} tokens/s, first token after {result.ttft_s:.2f} s")
    print(f"route: {short_route(result.route)} (engine {result.engine})")
    print(f"tokens: {verdict} in one process")
    print(f"downloaded: {format_bytes(result.weights_bytes_downloaded)} of weights; llama.cpp: {result.llama_build}")
