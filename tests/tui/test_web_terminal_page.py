"""`peerllm web --terminal` in a real browser: the screens are drawn, take keys, and end with the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("textual_serve")

from tests.support.browser import browser, why_no_browser
from tests.support.screens import places

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or ""),
]


_FONT = "https://fonts.googleapis.com/css?family=Roboto%20Mono"
"""Asked for by textual-serve's page, and stopped by the policy it is sent with."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "peerllm", "web", "--terminal", "--print"]
    env = {**os.environ, "PEERLLM_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        yield serving.stdout.readline().strip()
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 0


def test_screens_are_drawn(address: str, tmp_path: Path) -> None:
    with browser() as page:
        page.look_like(1000, 700)
        page.open(address)
        assert page.shows("body.-first-byte .xterm", within_s=60), page.complaints()
        assert "token=" not in page.driver.current_url
        kept = places(tmp_path).conversations_file
        assert page.eventually(kept.exists, within_s=60)
        elsewhere = {each for each in page.requested() if not each.startswith(address.partition("?")[0])}
        assert elsewhere <= {_FONT}
        assert all("Content Security Policy" in said for said in page.complaints() if _FONT in said)
