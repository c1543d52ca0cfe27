"""Groups of two, three and four machines on a network of their own, and one whose member is killed at work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peerllm.engine.load import load_span
from peerllm.model.store import ModelStore
from tests.support.gguf_models import tiny_gguf
from tests.support.group_peers import UNEVEN, outputs
from tests.support.namespaces import Host, lan, why_no_namespaces

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(why_no_namespaces()), reason=why_no_namespaces() or "they work here"),
]

ROOT = Path(__file__).parents[2]
EIGHT_ON_FOUR = replace(UNEVEN, heads=8, kv_heads=4)
TOLERANCE = 0.02
"""Of the largest value: sums in another order, and what rounding activations to 8 bits makes of that in six blocks."""


@dataclass
class Node:
    process: subprocess.Popen[str]
    peer_id: str = ""
    addresses: tuple[str, ...] = ()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the node has ended"
        return json.loads(line)

    def lead(self, others: list[Node], **more: bool) -> None:
        assert self.process.stdin is not None
        members = [[other.peer_id, other.addresses] for other in others]
        self.process.stdin.write(json.dumps({"members": members, **more}) + "\n")
        self.process.stdin.flush()


@contextmanager
def node(host: Host, home: Path, model: Path) -> Iterator[Node]:
    module = (sys.executable, "-m", "tests.support.group_node")
    command = host.command(*module, "--home", str(home), "--model", str(model), "--host", host.address)
    with (home.parent / f"{home.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            try:
                yield Node(process)
            finally:
                process.terminate()


def test_two_three_and_four_machines_compute_what_one_does(tmp_path: Path):
    model = tiny_gguf(tmp_path, EIGHT_ON_FOUR)
    stored = ModelStore(tmp_path / "models").open(str(model))
    whole = load_span(stored, stored.spec.whole, engine="llama", slots=1, context_tokens=64, threads=1)
    try:
        expected = outputs(whole, EIGHT_ON_FOUR.hidden)
    finally:
        whole.shutdown()
    with lan(4) as hosts, ExitStack() as stack:
        nodes = [stack.enter_context(node(host, tmp_path / host.namespace, model)) for host in hosts]
        for each in nodes:
            said = each.heard()
            each.peer_id, each.addresses = said["peer_id"], tuple(said["addresses"])
        for count in (2, 3, 4):
            nodes[0].lead(nodes[1:count], until_broken=count == 4)
            together = np.asarray(nodes[0].heard()["hidden"], np.float32)
            assert np.abs(together - expected).max() <= TOLERANCE * np.abs(expected).max(), count
        nodes[3].process.kill()
        broken = nodes[0].heard()
        assert "member" in broken["broken"]
        assert "gone" in broken["heard"]
        nodes[0].lead(nodes[1:3])  # those who are left
        together = np.asarray(nodes[0].heard()["hidden"], np.float32)
        assert np.abs(together - expected).max() <= TOLERANCE * np.abs(expected).max()
