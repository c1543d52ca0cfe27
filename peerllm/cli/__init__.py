"""The command ``peerllm``: parse, run one verb, turn what went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from peerllm.cli.node_part import go_where_it_runs
from peerllm.cli.parser import build_parser
from peerllm.errors import PeerllmError

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the verb: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 no terminal, 5 no peers, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = build_parser(given).parse_args(given)
    try:
        code = _run(parsed, given)
        sys.stdout.flush()
    except BrokenPipeError:
        return _quiet_end()
    return code


def _run(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    try:
        go_where_it_runs(parsed.verb, arguments)
        return parsed.run(parsed)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except (PeerllmError, OSError) as error:
        if os.environ.get("PEERLLM_DEBUG"):
            raise
        print(f"peerllm: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, PeerllmError) else 1


def _quiet_end() -> int:
    """The reader of our output (``| head``) has had enough; Python must not fail again when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 0
