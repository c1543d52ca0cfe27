"""Run as a process of its own: serve a span, give it back, print what the process held before, then and after.

Usage: python -m tests.support.memory_released MODEL ENGINE
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from peerllm.config import Config, ContributionConfig, EngineConfig
from peerllm.model.store import ModelStore
from peerllm.serving.loaded_span import LoadedSpan, load_engine
from peerllm.serving.offer import work_out_offer
from peerllm.serving.spans_in_memory import SpansInMemory
from peerllm_swarm.span import BlockSpan
from tests.support.memory_growth import import_engine, resident_bytes
from tests.support.peers import transport


async def main(model_path: str, engine: str) -> None:
    config = Config(
        contribution=ContributionConfig(memory_bytes=4 << 30, slots=2, context_tokens=512),
        engine=EngineConfig(kind=engine, threads=1, dtype="auto"),
    )
    with TemporaryDirectory() as directory:
        home = Path(directory)
        stored = ModelStore(home / "models").open(model_path)
        offer = work_out_offer(stored.spec, config, threads=1)
        import_engine(engine, stored)
        spans = SpansInMemory()
        async with transport(home / "me") as (streams, _):
            held = [resident_bytes("VmRSS")]
            span = BlockSpan(0, min(stored.spec.blocks, offer.capacity_blocks))
            loaded = await LoadedSpan.load(stored, offer, span, streams, lambda _: None, load_engine)
            await loaded.warm()
            spans.served = loaded
            del loaded
            held.append(resident_bytes("VmRSS"))
            await spans.unload()
            held.append(resident_bytes("VmRSS"))
        print(json.dumps({"span_bytes": stored.spec.span_bytes(span), "held": held}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
