"""What `peerllm doctor` looks at: each check gives a verdict and, unless it is ok, what to do."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import stat
import sys
import time
from importlib import metadata
from pathlib import Path

import psutil

import peerllm
from peerllm.choices import load_choices, with_choices
from peerllm.cli.check import Check, fail, ok, warn
from peerllm.cli.environment import connect, locations, read_config
from peerllm.cli.network_checks import check_multicast, check_port
from peerllm.cli.reader_checks import check_readers
from peerllm.config import Config
from peerllm.errors import PeerllmError, UsageError
from peerllm.local.schema import NetworkStatus, Status
from peerllm.locations import Locations
from peerllm.sizes import format_bytes

_NODE_PACKAGES = ("numpy", "torch", "transformers", "zeroconf", "cryptography", "msgpack", "fastapi", "uvicorn")
_COMPILERS = ("c++", "g++", "clang++", "cl")
_DAY_S = 86400.0
_LITTLE_DISK = 1 << 30
_NO_DISK = 200 << 20
_LITTLE_MEMORY = 1 << 30


def examine() -> list[Check]:
    """Every check, the ones that others rest on first; a config that cannot be read is checked as the default."""
    home = locations()
    configured = check_config()
    config = read_config().config if configured.verdict == "ok" else Config()
    daemon = _daemon_status()
    models_dir = Path(config.models.dir).expanduser() if config.models.dir else home.models_dir
    return [
        check_python(),
        *check_packages(),
        configured,
        check_engine(config),
        check_compiler(),
        check_daemon(daemon),
        check_port(
            "api port", config.api.host, config.api.port, ours=bool(daemon and daemon.api.port == config.api.port)
        ),
        check_port(
            "p2p port", config.swarm.listen, config.swarm.port, ours=bool(daemon and daemon.port == config.swarm.port)
        ),
        check_multicast(config.swarm.mdns),
        check_secrets(home),
        check_clock(daemon.network.clock if daemon else ""),
        check_reach(daemon.network if daemon else None),
        check_disk(models_dir),
        check_memory(),
        *check_readers(models_dir, with_choices(config, load_choices(home.choices_file)).guest),
    ]


def check_python() -> Check:
    """Which interpreter runs; one that is too old never gets here."""
    return ok("python", f"{platform.python_version()} at {sys.executable}")


def check_packages() -> list[Check]:
    missing = [name for name in _NODE_PACKAGES if not _is_installed(name)]
    node = (
        fail("packages", f"missing: {', '.join(missing)}", "peerllm setup, or pip install 'peerllm[node]'")
        if missing
        else ok("packages", ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers")))
    )
    hivemind = (
        ok("hivemind", metadata.version("hivemind"))
        if _is_installed("hivemind")
        else warn(
            "hivemind", "not installed", "peers beyond the local network need it: pip install hivemind (not Windows)"
        )
    )
    return [node, hivemind]


def check_config() -> Check:
    file = locations().config_file
    try:
        read_config()
    except UsageError as error:
        return fail("config", str(error), "`peerllm config --explain` lists what each field takes")
    return ok("config", f"{file}{'' if file.exists() else ' (absent: defaults)'}")


def check_engine(config: Config) -> Check:
    """Which engine serves GGUF files here; looks only, importing torch takes seconds."""
    llama, torch = _is_installed("llama_cpp"), _is_installed("torch")
    wanted = config.engine.kind
    if wanted == "llama" and not llama:
        return fail("engine", "engine.kind is llama, llama.cpp is not built", "pip install 'peerllm[llama]', or auto")
    if wanted in ("auto", "llama") and llama:
        return ok("engine", f"llama.cpp {metadata.version('llama-cpp-python')}" + (", torch" if torch else ""))
    if not torch:
        return fail("engine", "neither llama.cpp nor torch is installed", "pip install 'peerllm[node]'")
    if wanted == "torch":
        return ok("engine", f"torch {metadata.version('torch')}, as configured")
    return warn("engine", "torch alone", "on CPUs llama.cpp is several times faster: pip install 'peerllm[llama]'")


def check_compiler() -> Check:
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found:
        return ok("compiler", found)
    if _is_installed("llama_cpp"):
        return ok("compiler", "none, and none is needed: llama.cpp is built")
    return warn(
        "compiler", "no C++ compiler", "llama.cpp needs one to be built: apt install g++, xcode-select --install"
    )


def check_daemon(status: Status | None) -> Check:
    if status is None:
        return ok("daemon", "not running (`peerllm up` starts it)")
    if status.version != peerllm.__version__:
        return warn("daemon", f"runs version {status.version}", "restart it: peerllm down && peerllm up")
    if status.lifecycle.name == "error":
        return fail("daemon", f"pid {status.pid}: {status.lifecycle.reason}", f"see {locations().log_file}")
    return ok("daemon", f"pid {status.pid}, {status.lifecycle.name}, {status.api.url}")


def check_secrets(home: Locations) -> Check:
    """Whether others on this machine could read the keys; Windows has no modes, its profile folder is private."""
    private = {home.state_dir: 0o700, home.token_file: 0o600, home.identity_file: 0o600}
    private |= {root_key: 0o600 for root_key in home.state_dir.glob("swarms/*/root.key")}
    open_to_others = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_to_others and sys.platform != "win32":
        orders = "; ".join(f"chmod {private[path]:o} {path}" for path in open_to_others)
        return fail("secrets", f"readable by others: {', '.join(map(str, open_to_others))}", orders)
    return ok("secrets", f"{home.state_dir} is private" if home.state_dir.exists() else "none yet")


def check_reach(network: NetworkStatus | None) -> Check:
    """Whether other peers get through to this machine."""
    if network is None:
        return ok("reach", "known once the daemon runs")
    if network.reach == "unreachable":
        return fail(
            "reach",
            network.reason,
            "let swarm.port through the firewall or router, or have public members set relay = on",
        )
    return ok("reach", f"{network.reach}{f', {network.reason}' if network.reason else ''}")


def check_clock(problem: str = "") -> Check:
    """A clock before this program was installed is wrong; records live 60 s, so peers would not see each other."""
    if problem:
        return fail("clock", problem, "timedatectl set-ntp true, on the machine whose clock is wrong")
    installed = Path(peerllm.__file__).stat().st_mtime
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < installed - _DAY_S:
        return fail("clock", f"{now} is before this program was installed", "set the clock (timedatectl set-ntp true)")
    return ok("clock", now)


def check_disk(folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{format_bytes(free)} free for models in {folder}"
    if free < _NO_DISK:
        return fail("disk", detail, "free some space, or set models.dir to another disk")
    if free < _LITTLE_DISK:
        return warn("disk", detail, "larger models will not fit: set models.dir to another disk")
    return ok("disk", detail)


def check_memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} available"
    if memory.available < _LITTLE_MEMORY:
        return warn("memory", detail, "few blocks will fit; close other programs or set contribution.memory_bytes")
    return ok("memory", detail)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _daemon_status() -> Status | None:
    try:
        with connect() as client:
            return client.status()
    except PeerllmError:
        return None
