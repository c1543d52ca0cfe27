"""What a released span held goes back to the system, not to the allocator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.models import Shape, model_file

MODEL = Shape(
    blocks=12, hidden=1024, heads=16, kv_heads=4, feed_forward=4096, vocabulary=1000, quantisation="q8_0"
)  # 195 MB as stored, 730 MB in float32

RETURNED = 0.8
"""Of what the span took."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc"),
]


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_memory_really_returns(engine: str, tmp_path: Path) -> None:
    if engine == "llama":
        pytest.importorskip("llama_cpp")
    command = [sys.executable, "-m", "tests.support.memory_released", str(model_file(MODEL, tmp_path)), engine]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    told = json.loads(finished.stdout.splitlines()[-1])
    before, serving, after = told["held"]
    assert serving - before >= told["span_bytes"] * RETURNED
    assert serving - after >= (serving - before) * RETURNED
