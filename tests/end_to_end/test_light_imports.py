"""What clients import in a blink must not bring tensors along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "hivemind", "numpy", "transformers", "llama_cpp", "fastapi", "matplotlib"}


@pytest.mark.parametrize("module", ["peerllm.cli.parser", "peerllm.local.client", "peerllm.config"])
def test_import_stays_light(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_of_hivemind_only_what_a_peer_needs_is_loaded() -> None:
    program = (
        "import sys; from peerllm_swarm.lean_hivemind import import_lean; import_lean('hivemind.dht.node'); "
        "from peerllm_swarm import dht_serializer, dht_validator, gated_p2p; "
        "print(*sorted({'torch', 'scipy', 'hivemind.averaging', 'hivemind.dht.dht'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
