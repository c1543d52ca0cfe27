"""The command as a process: what it prints, where, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerllm.errors import NotRunning, PeerllmError
from peerllm.local.launch import launch_daemon, stop_daemon, wait_until_answering
from peerllm.locations import Locations

STAND_IN = (sys.executable, "-m", "tests.support.stand_in_daemon")
VERBS = (
    *("serve", "up", "down", "status", "run", "ps", "peers", "swarm", "join", "leave", "share"),
    *("doctor", "env", "explain", "simulate", "config", "version", "pull", "list", "show", "rm"),
)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERLLM_")}
    return kept | {"PEERLLM_HOME": str(tmp_path / "home"), "PEERLLM_API_PORT": "0"}


def peerllm(env: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peerllm", *arguments], env=env, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_help_names_every_verb_and_imports_nothing_heavy(env: dict[str, str]) -> None:
    code = (
        "import sys, peerllm.cli, peerllm.config, peerllm.local.client\n"
        "heavy = {'torch', 'numpy', 'hivemind', 'fastapi', 'transformers', 'llama_cpp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "peerllm.cli.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    for verb in [
        "serve",
        "up",
        "down",
        "status",
        "run",
        "peers",
        "swarm",
        "join",
        "leave",
        "share",
        "explain",
        "doctor",
        "config",
        "version",
        "pull",
        "list",
        "show",
        "rm",
    ]:
        assert f"\n    {verb} " in done.stdout


def test_usage_errors_are_2(env: dict[str, str]) -> None:
    assert peerllm(env).returncode == 2
    assert peerllm(env, "fly").returncode == 2
    refused = peerllm(env, "serve", "--port", "99999")
    assert refused.returncode == 2
    assert refused.stderr == "peerllm: command line: swarm.port = 99999 is not allowed; it takes 0 to 65535\n"
    assert peerllm(env, "up", "--set", "nonsense").returncode == 2
    assert peerllm(env, "share").returncode == 2
    pause = peerllm(env, "share", "pause", "--for", "soon")
    assert (pause.returncode, pause.stderr.partition(";")[0]) == (2, "peerllm: 'soon' is no time")


@pytest.mark.parametrize(
    "verb", ["status", "peers", "swarm", "down", "leave", "share status", "join 192.0.2.1", "explain", "explain last"]
)
def test_without_a_daemon_exit_code_is_3_and_says_what_to_do(env: dict[str, str], verb: str) -> None:
    done = peerllm(env, *verb.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("peerllm: no daemon is running")
    assert "peerllm up" in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(env: dict[str, str]) -> None:
    assert "Traceback" in peerllm(env | {"PEERLLM_DEBUG": "1"}, "status").stderr


def test_config_shows_values_with_their_sources(env: dict[str, str]) -> None:
    assert peerllm(env, "config", "set", "contribution.memory_bytes", "1.5GiB").returncode == 0
    env = env | {"PEERLLM_SWARM_NAME": "den", "PEERLLM_API_KEY": "sk-very-secret"}
    done = peerllm(env, "config", "--json")
    shown = json.loads(done.stdout)
    path = peerllm(env, "config", "path").stdout.strip()

    assert shown["contribution.memory_bytes"] == {"value": 3 << 29, "source": path}
    assert shown["swarm.name"] == {"value": "den", "source": "environment PEERLLM_SWARM_NAME"}
    assert shown["engine.kind"] == {"value": "auto", "source": "default"}
    for text in (done.stdout, peerllm(env, "config").stdout, peerllm(env, "config", "--explain").stdout):
        assert "sk-very-secret" not in text
        assert "\x1b" not in text


def test_overridden_setting_is_said(env: dict[str, str]) -> None:
    done = peerllm(env | {"PEERLLM_SWARM_NAME": "den"}, "config", "set", "swarm.name", "attic")
    assert "environment PEERLLM_SWARM_NAME overrides it" in done.stdout


def test_version_and_doctor_as_json(env: dict[str, str]) -> None:
    assert json.loads(peerllm(env, "version", "--json").stdout)["peerllm"]
    done = peerllm(env, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"python", "packages", "engine", "compiler", "api port", "p2p port", "mdns", "secrets", "clock"} <= set(
        checks
    )
    assert all(check["advice"] for check in checks.values() if check["verdict"] != "ok")
    assert done.returncode == (1 if any(check["verdict"] == "fail" for check in checks.values()) else 0)


def test_doctor_sees_an_open_token_and_a_bad_config(env: dict[str, str]) -> None:
    home = Locations.of(env)
    home.create()
    home.token_file.write_text("x")
    home.token_file.chmod(0o644)
    home.config_file.write_text("[swarm]\nport = -1\n")
    done = peerllm(env, "doctor")
    assert done.returncode == 1
    assert f"chmod 600 {home.token_file}" in done.stdout
    assert "swarm.port = -1 is not allowed" in done.stdout


def test_closed_pipe_is_quiet(env: dict[str, str]) -> None:
    shell = f"{sys.executable} -m peerllm config --explain | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.fixture
def daemon(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Locations]:
    """The stand-in daemon, launched as `peerllm up` launches the real one."""
    monkeypatch.setenv("PEERLLM_HOME", env["PEERLLM_HOME"])
    monkeypatch.setenv("PEERLLM_API_PORT", "0")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    home = Locations.of(env)
    process = launch_daemon(home, command=STAND_IN)
    try:
        wait_until_answering(home, process, timeout_s=30).close()
        yield home
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.e2e
def test_verbs_talk_to_the_daemon_until_it_is_down(env: dict[str, str], daemon: Locations) -> None:
    status = json.loads(peerllm(env, "status", "--json").stdout)
    assert status["lifecycle"]["name"] == "loading"
    assert "25%" in peerllm(env, "status").stdout
    assert "running already" in peerllm(env, "up").stdout
    assert json.loads(peerllm(env, "peers", "--json").stdout)[0]["you"] is True
    assert "30 of 30 blocks served, complete" in peerllm(env, "swarm").stdout
    assert json.loads(peerllm(env, "ps", "--json").stdout)[0]["state"] == "loading"
    assert peerllm(env, "ps").stdout.splitlines()[1].split()[:2] == ["smollm2-135m", "loading"]
    assert "blocks 0:30 of smollm2-135m; nobody else needs this machine" in peerllm(env, "share", "on").stdout
    assert "; paused by you" in peerllm(env, "share", "pause", "--for", "2h").stdout
    assert "verdict" in peerllm(env, "status").stdout
    assert json.loads(peerllm(env, "share", "resume", "--json").stdout)["guest"]["verdict"] == "share"
    assert peerllm(env, "share", "limits", "contribution.slots", "2").stdout.split()[5:7] == ["2", "choice"]
    told = peerllm(env, "share", "status").stdout
    assert "1.2 of 8 cores used by others" in told
    assert "contribution.slots" in told
    assert peerllm(env, "share", "off", "--finish").stdout == "running sessions may end, then lending stops\n"
    assert peerllm(env, "share", "off").stdout == "sharing is off\n"
    refused = peerllm(env, "join", "http://x")
    assert (refused.returncode, refused.stderr) == (2, "peerllm: 'http://x' is no HOST[:PORT]\n")

    asked = time.monotonic()
    waited = peerllm(env, "run", "smollm2-135m", "hello", "--wait", "0.5")
    assert waited.returncode == 1
    assert "waiting: smollm2-135m is loading" in waited.stderr
    assert time.monotonic() - asked < 30
    assert peerllm(env, "run", "gpt-5", stdin="hello").returncode == 1
    assert peerllm(env, "run", "gpt-5").stderr.startswith("peerllm: there is no prompt")

    base = json.loads(peerllm(env, "env", "--shell", "json").stdout)["OPENAI_BASE_URL"]
    read = f'eval "$({sys.executable} -m peerllm env)" && printf %s "$OPENAI_BASE_URL $OPENAI_API_KEY"'
    assert subprocess.run(["sh", "-c", read], env=env, capture_output=True, text=True).stdout == f"{base} unused"
    keyed = env | {"PEERLLM_API_KEY": 'it\'s "my" key$1'.replace(" ", "-")}
    shown = subprocess.run(["sh", "-c", read], env=keyed, capture_output=True, text=True).stdout
    assert shown == f"{base} {keyed['PEERLLM_API_KEY']}"

    assert peerllm(env, "down").stdout.startswith("the daemon has stopped")
    assert peerllm(env, "status").returncode == 3
    assert not daemon.daemon_file.exists()


@pytest.mark.e2e
def test_launch_tells_why_a_daemon_ended(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    home = Locations.of(env)
    process = launch_daemon(home, ["--fail"], command=STAND_IN)
    with pytest.raises(PeerllmError, match="exit code 1: nothing works today"):
        wait_until_answering(home, process, timeout_s=30)


def test_stopping_what_does_not_run_is_not_running(env: dict[str, str]) -> None:
    with pytest.raises(NotRunning):
        stop_daemon(Locations.of(env), timeout_s=1)
