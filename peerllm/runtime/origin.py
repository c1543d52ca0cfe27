"""How this program came onto this machine, which decides what set-up installs and how it is updated."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import peerllm


@dataclass(frozen=True)
class Origin:
    """`way` is "source", "deb", "pipx", "uv" or "pip"; `url` is the file or folder it was installed from, if any."""

    way: str
    url: str = ""


def origin() -> Origin:
    """Of this very program."""
    code = Path(peerllm.__file__).parents[1]
    return origin_of(code, Path(sys.prefix), _direct_url())


def origin_of(code: Path, prefix: Path, direct_url: str) -> Origin:
    """Read it from where things lie.

    Args:
        code: the folder that holds the package.
        prefix: of the environment.
        direct_url: content of `direct_url.json` (PEP 610), "" where there is none.
    """
    said = _object(direct_url)
    url = str(said.get("url", ""))
    if isinstance(said.get("dir_info"), dict) or (code / "pyproject.toml").is_file():
        return Origin("source", url or code.as_uri())
    if (code / "__main__.py").is_file():
        return Origin("deb")
    if (prefix / "pipx_metadata.json").is_file():
        return Origin("pipx", url)
    if (prefix / "uv-receipt.toml").is_file():
        return Origin("uv", url)
    return Origin("pip", url)


def _direct_url() -> str:
    try:
        return metadata.distribution("peerllm").read_text("direct_url.json") or ""
    except metadata.PackageNotFoundError:
        return ""


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
