"""``peerllm doctor``: is this machine fit, and if not, what to do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.output import paint, print_json

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_commands(verbs: Subparsers) -> None:
    doctor = verbs.add_parser("doctor", help="check this machine and say what to do")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from peerllm.cli.checks import examine

    checks = examine()
    if arguments.json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{paint(f'{check.verdict:<4}', _COLOUR[check.verdict])}  {check.name:<{width}}  {check.detail}")
            if check.advice:
                print(f"      {'':<{width}}  -> {check.advice}")
    return 1 if any(check.verdict == "fail" for check in checks) else 0
