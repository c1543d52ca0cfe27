"""The first paint waits for nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "hivemind", "numpy", "fastapi", "httpx", "psutil", "markdown_it", "aiohttp"}


def test_screens_are_imported_without_what_comes_later() -> None:
    program = f"import sys, peerllm_tui.chat_screen; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
