"""Which release of this program is the newest, from what a package index says (the JSON API of PyPI)."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from peerllm.errors import UpdateCheckFailed
from peerllm.runtime.origin import Origin

_FINAL = re.compile(r"(\d+(?:\.\d+)*)(?:\.?post(\d+))?")
_PRE = re.compile(r"(\d+(?:\.\d+)*)[-_.]?(?:a|b|c|rc|dev|alpha|beta|pre|preview)[-_.]?\d*.*")

Rank = tuple[tuple[int, ...], int]
"""Orders versions: the numbers without zeros at the end, then -1 before the release, 0 for it, 1 and more after it."""

_HOW = {
    "source": "git pull && ./dev setup",
    "deb": "sudo apt install ./peerllm_{version}-1_*.deb, with the package of that release",
    "pipx": "pipx upgrade peerllm",
    "uv": "uv tool upgrade peerllm",
    "pip": "pip install --upgrade peerllm, with the extras that you use",
}


def newest_release(answer: bytes) -> str | None:
    """The newest final release that has files and is not withdrawn ("yanked"); None if there is none.

    Raises:
        UpdateCheckFailed: the answer is none of a package index.
    """
    try:
        releases = cast("dict[str, Any]", json.loads(answer))["releases"]
        usable = [str(version) for version, files in releases.items() if _is_offered(files)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UpdateCheckFailed("what answers at update.index is no package index with a JSON API") from None
    final = [version for version in usable if _FINAL.fullmatch(version)]
    return max(final, key=lambda version: rank(version) or ((), 0), default=None)


def rank(version: str) -> Rank | None:
    """By which versions are compared (PEP 440, as far as this program's own need it); None for any other text."""
    if len(version) > 64:
        return None
    if found := _FINAL.fullmatch(version):
        return _numbers(found[1]), int(found[2] or -1) + 1
    if found := _PRE.fullmatch(version):
        return _numbers(found[1]), -1
    return None


def is_newer(version: str, than: str) -> bool:
    """Unknown forms are never newer."""
    one, other = rank(version), rank(than)
    return one is not None and other is not None and one > other


def how_to_update(came: Origin, version: str) -> str:
    """The command that fits the way in which this program was installed."""
    return _HOW[came.way].format(version=version)


def _is_offered(files: list[dict[str, Any]]) -> bool:
    return bool(files) and not all(file.get("yanked") for file in files)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
