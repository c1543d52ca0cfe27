"""``peerllm update --check``: is there a newer release? Asked only when told to."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import peerllm
from peerllm.cli.environment import read_config
from peerllm.cli.output import print_json
from peerllm.errors import UpdateCheckFailed, UsageError

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers

_ANSWER_S = 10.0
_ALL_S = 30.0
_MAX_BYTES = 8 << 20


def add_commands(verbs: Subparsers) -> None:
    update = verbs.add_parser(
        "update",
        help="is there a newer release, and how to get it",
        description="Asks the package index of update.index, which learns this machine's address and nothing else. "
        "peerllm never asks by itself and never replaces itself.",
    )
    update.add_argument("--check", action="store_true", help="ask the index now")
    update.add_argument("--json", action="store_true", help="as JSON")
    update.set_defaults(run=_update)


def _update(arguments: argparse.Namespace) -> int:
    from peerllm.releases import how_to_update, is_newer, newest_release
    from peerllm.runtime.origin import origin

    if not arguments.check:
        raise UsageError("peerllm does not replace itself; `peerllm update --check` asks for a newer release")
    config = read_config().config
    if config.swarm.lan_only:
        raise UpdateCheckFailed("swarm.lan_only is on: no index beyond the local network is asked")
    newest = newest_release(_fetch(config.update.index))
    newer = newest is not None and is_newer(newest, than=peerllm.__version__)
    how = how_to_update(origin(), newest or "") if newer else ""
    if arguments.json:
        print_json({"version": peerllm.__version__, "newest": newest, "newer": newer, "how": how})
    elif newer:
        print(f"peerllm {newest} is out, this is {peerllm.__version__}; update with: {how}")
    elif newest is None:
        print(f"the index has no release; this is {peerllm.__version__}")
    else:
        print(f"peerllm {peerllm.__version__} is up to date (newest release: {newest})")
    return 0


def _fetch(address: str) -> bytes:
    """What the index answers; raises `UpdateCheckFailed`."""
    import httpx

    headers = {"User-Agent": f"peerllm/{peerllm.__version__}", "Accept": "application/json"}
    deadline = time.monotonic() + _ALL_S
    try:
        with httpx.stream("GET", address, headers=headers, timeout=_ANSWER_S, follow_redirects=True) as answer:
            if answer.status_code != 200:
                raise UpdateCheckFailed(f"{address} answers {answer.status_code}; is update.index right?")
            content = b""
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > _MAX_BYTES or time.monotonic() > deadline:
                    raise UpdateCheckFailed(f"{address} sends too much, or too slowly, for a list of releases")
            return content
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UpdateCheckFailed(f"{address} cannot be reached: {error or type(error).__name__}") from error
