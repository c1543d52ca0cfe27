"""Write what the spans of the default model compute, as shipped in peerllm/engine/activations (see `self_test`).

python -m bench.activations [--model NAME_OR_PATH]

To be run on a machine whose answers were found right (`./dev bench speed`, tests/end_to_end), and again when the
default model changes, when an engine is to compute other numbers, or when `known_activations.LAYOUT` is raised.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import peerllm.engine
from bench.machine import describe
from peerllm.config import Config
from peerllm.engine.known_activations import Projections, encode_table
from peerllm.engine.load import load_span
from peerllm.engine.self_test import ROWS, measure_activations
from peerllm.engine.span_engine import SpanEngine, fingerprint
from peerllm.locations import Locations
from peerllm.model import catalog
from peerllm.model.store import ModelStore, StoredModel
from peerllm_swarm.span import BlockSpan

ENGINES = (("llama", None), ("torch", "float32"), ("torch", "bfloat16"))
FOLDER = Path(peerllm.engine.__file__).parent / "activations"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=catalog.DEFAULT)
    arguments = parser.parse_args()
    model = ModelStore(Path(Config().models.dir or Locations.of().models_dir)).open(arguments.model)
    print(describe())
    FOLDER.mkdir(exist_ok=True)
    for engine, dtype in ENGINES:
        table = dict(all_activations(model, engine, dtype))
        file = FOLDER / f"{fingerprint(model.spec, engine, dtype or model.spec.quantisation)}.json"
        file.write_bytes(encode_table(table))
        print(f"{engine} {dtype or model.spec.quantisation}: {len(table)} spans, {file.stat().st_size} bytes in {file}")


def all_activations(model: StoredModel, engine: str, dtype: str | None) -> Iterator[tuple[BlockSpan, Projections]]:
    """Of every span there is, each loaded from its own start where the engine cannot enter later."""
    loaded: SpanEngine | None = None
    blocks, hidden = model.spec.blocks, model.spec.hidden
    for start in range(blocks):
        if loaded is None or not loaded.info.free_entry:
            loaded = _exchanged(loaded, model, BlockSpan(start, blocks), engine, dtype)
        for end in range(start + 1, blocks + 1):
            yield BlockSpan(start, end), measure_activations(loaded, hidden, BlockSpan(start, end))
    if loaded is not None:
        loaded.shutdown()


def _exchanged(
    before: SpanEngine | None, model: StoredModel, span: BlockSpan, engine: str, dtype: str | None
) -> SpanEngine:
    if before is not None:
        before.shutdown()
    return load_span(model, span, engine=engine, dtype=dtype, slots=1, context_tokens=4 * ROWS, threads=1)


if __name__ == "__main__":
    main()
