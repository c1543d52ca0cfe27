"""What pip prints, as what it is doing: pips before 24.1 have no output for programs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

from peerllm.sizes import format_bytes

_COLLECTING = re.compile(r"\s*Collecting ([\w.-]+)")
_DOWNLOADING = re.compile(
    r"\s*Downloading (?:\S*/)?([\w.+%-]+)\.(?:whl|tar\.gz|zip)(?:\.metadata)? \(([\d.]+) ?([kMG]?B|bytes)\)"
)
_INSTALLING = re.compile(r"Installing collected packages: (.+)")
_BUILDING = re.compile(r"\s*Building wheel for ([\w.-]+)")
_UNITS = {"bytes": 1, "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_OFFLINE = re.compile(
    "NewConnectionError|NameResolutionError|Failed to establish a new connection|Network is unreachable|"
    "Temporary failure in name resolution|Name or service not known|ConnectTimeout|ReadTimeout|ProxyError"
)
_FULL = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded")


@dataclass(frozen=True)
class PipState:
    """`packages` counts those looked at so far; `file_bytes` is the size of what is being fetched, 0 if nothing is;
    `installing` is how many packages are being installed, 0 before that."""

    words: str = "looking for packages"
    packages: int = 0
    file_bytes: int = 0
    installing: int = 0


def after(state: PipState, line: str) -> PipState:
    """What pip is doing once it has printed that line."""
    if found := _COLLECTING.match(line):
        return PipState(f"looking for {found[1]}", state.packages + 1)
    if found := _DOWNLOADING.match(line):
        size = int(float(found[2]) * _UNITS[found[3]])
        name = "-".join(unquote(found[1]).split("-")[:2])
        return replace(state, words=f"fetching {name} ({format_bytes(size)})", file_bytes=size)
    if found := _BUILDING.match(line):
        return replace(state, words=f"building {found[1]}", file_bytes=0)
    if found := _INSTALLING.match(line):
        count = len(found[1].split(","))
        return replace(state, words=f"installing {count} packages", file_bytes=0, installing=count)
    return state


def why_it_failed(output: str) -> str:
    """One sentence for people: what was wrong, and what they can do if that is known."""
    if _FULL.search(output):
        return "the disk is full; free some space and run `peerllm setup` again, which goes on where it stopped"
    if _OFFLINE.search(output):
        return "the package index cannot be reached; connect this machine, or point pip at another index (pip config)"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1][:300]


def is_hopeless(output: str) -> bool:
    """Would another attempt with another source fail just so?"""
    return bool(_FULL.search(output) or _OFFLINE.search(output))
