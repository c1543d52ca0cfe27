"""Which Python runs the daemon: this one if it has what a node needs, else the one that `peerllm setup` has made."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

import peerllm
from peerllm.errors import NotSetUp

_NODE_PACKAGES = ("numpy", "torch", "transformers", "zeroconf", "cryptography", "msgpack", "fastapi", "uvicorn")
_ENVIRONMENT = "venv"
_STAMP = "set-up.json"


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from: it fits while all of it is still so. `wheel` is a SHA-256, or empty."""

    version: str
    python: str
    wheel: str


def own_command() -> tuple[str, ...]:
    """How to start this program again; a packaged one is a folder that Python runs (installers/linux)."""
    folder = _code_folder()
    if (folder / "__main__.py").is_file():
        return (sys.executable, "-I", str(folder))
    return (sys.executable, "-P", "-m", "peerllm")


def has_node_part() -> bool:
    """Can this interpreter run the daemon? Looks for its packages without loading them."""
    return all(importlib.util.find_spec(name) for name in _NODE_PACKAGES)


def node_folder() -> Path:
    """Where set-up keeps its environment, log and progress: the machine's, hence shared by all homes of a user."""
    return platformdirs.user_data_path("peerllm", appauthor=False)


def environment() -> Path:
    return node_folder() / _ENVIRONMENT


def node_python() -> Path | None:
    """The interpreter that set-up has made, if it is complete and of this very version."""
    python = environment() / "bin" / "python"
    return python if python.is_file() and _stamp_of(environment()) == wanted_stamp() else None


def node_command() -> tuple[str, ...]:
    """How to start this program where the node's packages are; raises `NotSetUp`."""
    if has_node_part():
        return own_command()
    python = node_python()
    if python is None:
        raise NotSetUp(
            f"only the clients are installed here; `peerllm setup` fetches what the daemon needs into {environment()}"
        )
    return (str(python), "-P", "-m", "peerllm")


def wanted_stamp() -> Stamp:
    """Of an environment that would fit this program."""
    wheel = shipped_wheel()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest() if wheel else ""
    return Stamp(peerllm.__version__, f"{sys.version_info.major}.{sys.version_info.minor}", digest)


def shipped_wheel() -> Path | None:
    """The wheel that a package carries, so that set-up installs exactly what the clients are."""
    return next((_code_folder() / "wheel").glob(f"peerllm-{peerllm.__version__}-*.whl"), None)


def write_stamp(folder: Path) -> None:
    """Declare an environment complete."""
    from peerllm.atomic_write import write_atomically

    write_atomically(folder / _STAMP, json.dumps(asdict(wanted_stamp())).encode(), durable=True, mode=0o644)


def remove_stamp(folder: Path) -> None:
    (folder / _STAMP).unlink(missing_ok=True)


def is_environment() -> bool:
    """Does this process run in the environment that set-up makes?"""
    return Path(sys.prefix) == environment()


def become(command: tuple[str, ...], arguments: list[str]) -> None:
    """Go on as another program, in this process; does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], [*command, *arguments])


def _code_folder() -> Path:
    return Path(peerllm.__file__).parents[1]


def _stamp_of(folder: Path) -> Stamp | None:
    try:
        return Stamp(**json.loads((folder / _STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
