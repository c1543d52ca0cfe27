"""`peerllm serve` with an engine that misbehaves when the file that is named on the command line orders it.

python -m bench.chaos.peer ORDERS
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.chaos.damage import Damage, DamagedEngine
from peerllm import daemon
from peerllm.cli.environment import locations, read_config
from peerllm.engine.span_engine import SpanEngine
from peerllm.log import configure_log
from peerllm.model.progress import Progress
from peerllm.model.store import StoredModel
from peerllm.serving.loaded_span import load_engine
from peerllm.serving.offer import Offer
from peerllm_swarm.span import BlockSpan


def main(orders: Path) -> int:
    """The daemon's exit code."""

    def load(stored: StoredModel, offer: Offer, span: BlockSpan, progress: Progress) -> tuple[SpanEngine, float]:
        engine, load_s = load_engine(stored, offer, span, progress)
        return DamagedEngine(engine, lambda: Damage.read(orders)), load_s

    configure_log(locations().log_file, stderr=True)
    return daemon.run(read_config(), load)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
