"""`peerllm setup` with a pip that installs nothing, but prints what pip prints, and takes its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest

import peerllm
from peerllm.errors import NotSetUp, PeerllmError, SetUpFailed
from peerllm.local.launch import launch_daemon, wait_until_answering
from peerllm.locations import Locations
from peerllm.runtime.interpreter import environment, node_folder, node_python, shipped_wheel
from peerllm.runtime.origin import Origin
from peerllm.runtime.pip_output import PipState, after, is_hopeless, why_it_failed
from peerllm.runtime.progress import SetUpProgress, read_progress, write_progress
from peerllm.runtime.set_up import remove, requirement_of, set_up, torch_sources, torch_version

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="puts the folder of data by XDG_DATA_HOME")

PIP = """
import os, pathlib, sys, time
site = pathlib.Path(__file__).parents[1]
with (site / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
how = os.environ.get("PIP_DOES", "")
def until_told(words):
    deadline = time.monotonic() + 20
    while words not in (site.parents[3] / "progress.json").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
if how == "offline":
    print("WARNING: Retrying after connection broken by 'NewConnectionError(...): [Errno -3] Temporary failure in name"
          " resolution'")
    sys.exit("ERROR: No matching distribution found for torch")
if how == "full" or (how == "full in the end" and "--constraint" not in sys.argv and "torch" not in sys.argv[-1]):
    sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
if how == "hangs":
    (site / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if how == "no cpu build" and sys.argv[-1].endswith("+cpu"):
    sys.exit("ERROR: No matching distribution found for " + sys.argv[-1])
print("Collecting one", flush=True)
print("  Downloading https://files.example/one-1.0-py3-none-any.whl (1.0 kB)", flush=True)
(pathlib.Path(os.environ["TMPDIR"]) / "one.whl").write_bytes(bytes(500))
until_told("fetching one")
print("Installing collected packages: one, two", flush=True)
(site / "one-1.0.dist-info").mkdir(exist_ok=True)
until_told("installing")
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of an environment that an interrupted set-up has left, with the pip above."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", "/nonexistent")  # no GPU
    venv.create(environment(), with_pip=False)
    site = next(environment().glob("lib/python3*/site-packages"))
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text(PIP)
    return site


def nobody(_words: str, _fraction: float | None) -> None:
    """Nobody wants to know."""


def test_set_up_tells_how_far_it_is_and_leaves_an_interpreter(site: Path) -> None:
    told: list[tuple[str, float | None]] = []
    assert node_python() is None
    python = set_up(lambda *now: told.append(now), requirement="peerllm[node]==1.0")
    assert node_python() == python == environment() / "bin" / "python"
    assert ("step 3 of 3: fetching one-1.0 (1000 B)", 0.5) in told
    assert ("step 2 of 3: installing 2 packages", 0.5) in told
    calls = (site / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["torch", "peerllm[node]==1.0"]
    assert read_progress(node_folder()) is None


def test_second_call_does_nothing(site: Path) -> None:
    set_up(nobody, requirement="x[node]")
    calls = (site / "calls").read_text()
    set_up(nobody, requirement="x[node]")
    assert (site / "calls").read_text() == calls


def test_second_process_waits_for_the_first_and_shows_what_it_does(site: Path) -> None:
    told: list[str] = []
    first = threading.Thread(target=set_up, args=(nobody,), kwargs={"requirement": "x[node]"})
    first.start()
    while read_progress(node_folder()) is None:
        time.sleep(0.01)
    set_up(lambda words, _: told.append(words), requirement="x[node]")
    first.join(30)
    assert told
    assert all(words.startswith(("step", "waiting")) for words in told)
    assert (site / "calls").read_text().count("x[node]") == 1


@pytest.mark.parametrize(
    ("pip_does", "says"),
    [("offline", "cannot be reached"), ("full", "disk is full"), ("full in the end", "disk is full")],
)
def test_what_goes_wrong_is_told_and_the_next_attempt_goes_on(
    pip_does: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_DOES", pip_does)
    with pytest.raises(SetUpFailed, match=says):
        set_up(nobody, requirement="x[node]")
    assert node_python() is None
    assert read_progress(node_folder()) is None
    monkeypatch.setenv("PIP_DOES", "")
    set_up(nobody, requirement="x[node]")
    assert node_python() is not None


def test_offline_no_other_source_is_tried(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_DOES", "offline")
    with pytest.raises(SetUpFailed):
        set_up(nobody, requirement="x[node]")
    assert len((site / "calls").read_text().splitlines()) == 1


def test_without_a_cpu_build_the_default_one_is_taken(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_DOES", "no cpu build")
    set_up(nobody, requirement="x[node]")
    last = [call.split()[-1] for call in (site / "calls").read_text().splitlines()]
    assert last[-2].startswith("torch")
    assert last[-1] == "x[node]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_set_up_leaves_no_pip(site: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setenv("PIP_DOES", "hangs")
    program = "from peerllm.runtime.set_up import set_up; set_up(lambda *_: None, requirement='x[node]')"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as setting_up:
        pid = _wait_for(site / "pid")
        setting_up.send_signal(number)
        setting_up.wait(20)
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)
    assert not [*environment().glob(".pip-*")]


def test_environment_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(nobody, requirement="x[node]")
    stamp = environment() / "set-up.json"
    stamp.write_text(stamp.read_text().replace(peerllm.__version__, "0.0.0"))
    assert node_python() is None
    for rubbish in ("", "[]", '{"version": 1}', "\udcff"):
        stamp.write_bytes(rubbish.encode(errors="surrogateescape"))
        assert node_python() is None


def test_removal_leaves_nothing_but_the_lock() -> None:
    set_up(nobody, requirement="x[node]")
    assert remove()
    assert [path.name for path in node_folder().iterdir()] == ["set-up.lock"]
    assert not remove()


def test_start_of_a_daemon_that_sets_up_first_may_take_its_time(tmp_path: Path) -> None:
    told: list[str] = []
    program = (
        "import os, time; from peerllm.runtime.progress import SetUpProgress, write_progress;"
        "from peerllm.runtime.interpreter import node_folder;"
        "write_progress(node_folder(), SetUpProgress('step 2 of 3: x', None, os.getpid())); time.sleep(1.5);"
        "raise SystemExit('peerllm: that is all')"
    )
    home = Locations.of({"PEERLLM_HOME": str(tmp_path / "home")})
    write_progress(node_folder(), SetUpProgress("by another process", None, os.getpid()))
    process = launch_daemon(home, command=(sys.executable, "-c", program))
    with pytest.raises(PeerllmError, match="that is all"):
        wait_until_answering(home, process, timeout_s=1.0, report=lambda words, _: told.append(words))
    assert set(told) == {"step 2 of 3: x"}


def test_what_pip_is_to_install_is_this_very_program(tmp_path: Path) -> None:
    wheel = tmp_path / "peerllm-1.whl"
    assert requirement_of(Origin("deb"), wheel) == f"{wheel}[node]"
    assert requirement_of(Origin("pip"), None) == f"peerllm[node]=={peerllm.__version__}"
    assert requirement_of(Origin("uv", "file:///w.whl"), None) == "peerllm[node] @ file:///w.whl"
    with pytest.raises(NotSetUp, match=r"\./dev setup"):
        requirement_of(Origin("source"), None)
    assert shipped_wheel() is None


def test_cpu_builds_of_torch_come_first_unless_there_is_a_gpu(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("tqdm==1\ntorch==2.13.0\ntorchaudio==9\n")
    version = torch_version(constraints)
    assert torch_sources(version, gpu=True, env={}) == [["torch==2.13.0"]]
    sources = torch_sources(version, gpu=False, env={"PEERLLM_TORCH_INDEX": "https://mirror"})
    assert sources == [
        ["torch==2.13.0+cpu"],
        ["--extra-index-url", "https://mirror", "torch==2.13.0+cpu"],
        ["torch==2.13.0"],
    ]


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("Collecting torch==2.13.0", PipState("looking for torch", 1)),
        (
            "  Downloading https://x/torch-2.13.0%2Bcpu-cp311-linux.whl (1.5 MB)",
            PipState("fetching torch-2.13.0+cpu (1.43 MiB)", 0, 1500000),
        ),
        (
            "  Downloading hivemind-1.1.12-py3-none-any.whl (2.0 MB)",
            PipState("fetching hivemind-1.1.12 (1.91 MiB)", 0, 2000000),
        ),
        ("  Building wheel for x (pyproject.toml): started", PipState("building x")),
        ("Installing collected packages: a, b, c", PipState("installing 3 packages", installing=3)),
        ("Requirement already satisfied: pip", PipState()),
    ],
)
def test_line_of_pip_is_understood(line: str, state: PipState) -> None:
    assert after(PipState(), line) == state


def test_failure_of_pip_is_one_sentence() -> None:
    assert "disk is full" in why_it_failed("OSError: [Errno 28] No space left on device")
    assert why_it_failed("x\nERROR: first\nERROR: No matching distribution found for y\n") == (
        "No matching distribution found for y"
    )
    assert why_it_failed("") == "pip said nothing"
    assert not is_hopeless("ERROR: No matching distribution found for y")


def _wait_for(file: Path) -> int:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
