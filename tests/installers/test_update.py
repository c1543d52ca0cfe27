"""`peerllm update --check` against an index on 127.0.0.1."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import peerllm
from peerllm.cli import main
from peerllm.errors import UpdateCheckFailed
from peerllm.releases import how_to_update, is_newer, newest_release
from peerllm.runtime.origin import Origin, origin_of

FILE = [{"yanked": False}]
YANKED = [{"yanked": True}]


class Index:
    """An index that answers with `answer`, after `status`."""

    def __init__(self) -> None:
        self.answer, self.status = b"", 200
        self.asked = 0
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked += 1
                self.send_response(index.status)
                self.send_header("Content-Length", str(len(index.answer)))
                self.end_headers()
                self.wfile.write(index.answer)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def says(self, *releases: tuple[str, object]) -> None:
        self.answer = json.dumps({"info": {}, "releases": dict(releases)}).encode()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    index = Index()
    monkeypatch.setenv("PEERLLM_HOME", str(tmp_path))
    monkeypatch.setenv("PEERLLM_UPDATE_INDEX", f"http://127.0.0.1:{index.server.server_address[1]}/peerllm/json")
    thread = threading.Thread(target=index.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield index
    index.server.shutdown()
    thread.join()
    index.server.server_close()


def test_newer_release_is_named_with_the_way_to_get_it(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.says((peerllm.__version__, FILE), ("99.1", FILE), ("99.0", FILE))
    assert main(["update", "--check"]) == 0
    said = capsys.readouterr().out
    assert "99.1 is out" in said
    assert "git pull" in said


def test_same_release_is_up_to_date(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.says((peerllm.__version__, FILE), ("0.0.1", FILE))
    assert main(["update", "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"version": peerllm.__version__, "newest": peerllm.__version__, "newer": False, "how": ""}


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b"[]", b'{"releases": 3}', b'{"releases": {"1": [7]}}', b"[" * 9999]
)
def test_rubbish_is_refused(index: Index, answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    index.answer = answer
    assert main(["update", "--check"]) == 1
    assert "no package index" in capsys.readouterr().err


def test_error_of_the_index_is_told(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.status = 404
    assert main(["update", "--check"]) == 1
    assert "answers 404" in capsys.readouterr().err


def test_endless_answer_is_cut_off(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.answer = b" " * (9 << 20)
    assert main(["update", "--check"]) == 1
    assert "too much" in capsys.readouterr().err


def test_no_connection_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PEERLLM_UPDATE_INDEX", "http://127.0.0.1:1/peerllm/json")
    assert main(["update", "--check"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_nothing_is_asked_without_the_flag_or_beyond_the_lan(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["update"]) == 2
    monkeypatch.setenv("PEERLLM_SWARM_LAN_ONLY", "true")
    assert main(["update", "--check"]) == 1
    assert index.asked == 0


def test_only_final_releases_that_are_offered_count() -> None:
    releases = {"1.0": FILE, "1.1": YANKED, "1.2rc1": FILE, "1.3.dev1": FILE, "2": [], "junk": FILE, "1.0.post1": FILE}
    assert newest_release(json.dumps({"releases": releases}).encode()) == "1.0.post1"
    assert newest_release(json.dumps({"releases": {"1.1": YANKED}}).encode()) is None


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [
        ("0.1.1", "0.1.0", True),
        ("0.10", "0.9", True),
        ("1.0", "1.0.0", False),
        ("1.0", "1.0rc2", True),
        ("1.0.post1", "1.0", True),
        ("1.0", "1.0.post1", False),
        ("junk", "1.0", False),
        ("1.0", "1.0+local", False),
    ],
)
def test_versions_are_compared_as_pep_440_has_it(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


def test_way_of_installation_is_read_from_where_things_lie(tmp_path: Path) -> None:
    code, prefix = tmp_path / "code", tmp_path / "prefix"
    code.mkdir()
    prefix.mkdir()
    wheel = '{"url": "file:///w.whl", "archive_info": {}}'
    assert origin_of(code, prefix, "") == Origin("pip")
    assert origin_of(code, prefix, "not JSON") == Origin("pip")
    assert origin_of(code, prefix, wheel) == Origin("pip", "file:///w.whl")
    (prefix / "uv-receipt.toml").touch()
    assert origin_of(code, prefix, wheel) == Origin("uv", "file:///w.whl")
    (prefix / "pipx_metadata.json").touch()
    assert origin_of(code, prefix, "").way == "pipx"
    (code / "__main__.py").touch()
    assert origin_of(code, prefix, wheel).way == "deb"
    assert origin_of(code, prefix, '{"url": "file:///src", "dir_info": {}}') == Origin("source", "file:///src")
    for way in ("source", "deb", "pipx", "uv", "pip"):
        assert how_to_update(Origin(way), "1.2")


def test_unreachable_index_is_a_typed_error() -> None:
    with pytest.raises(UpdateCheckFailed):
        newest_release(b"{}")
