"""What loading Q4_1 weights as Q4_0 (`engine.repack`) gains and costs: SmolLM2, all blocks, as stored and repacked.

    ./dev bench repack [--rounds N] [--json]

Decode steps and prefills of both are measured in turns in one process, and judged by the ratio within each round. The
price is the perplexity of a text, each token but the first predicted from all before it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import platformdirs

from bench.machine import describe
from peerllm.engine.load import load_ends, load_span
from peerllm.engine.span_engine import Ends, Hidden, Rows, SpanEngine
from peerllm.engine.threads import limit_spinning
from peerllm.model.store import ModelStore
from peerllm.model.tokenizer import Tokenizer
from tests.support.embedded import embedded_gguf

FORMS = ("q4_1", "q4_0")
TEXT = Path(__file__).parents[1] / "tests" / "support" / "alice.txt"
TEXT_TOKENS, DECODED, PREFILLED, CONTEXT = 1500, 16, 128, 2048


@dataclass(frozen=True)
class Result:
    machine: str
    threads: int
    decode_ms: Mapping[str, list[float]]
    """Per token, by form, one per round; the median step of each."""
    prefill_ms: Mapping[str, list[float]]
    perplexity: Mapping[str, float]
    tokens: int
    """Of the text."""

    def ratios(self, times_ms: Mapping[str, list[float]]) -> list[float]:
        """How many times as fast the repacked form is, round by round."""
        return [stored / repacked for stored, repacked in zip(*(times_ms[form] for form in FORMS), strict=True)]


def measure(rounds: int, threads: int) -> Result:
    cache = platformdirs.user_cache_path("peerllm", appauthor=False) / "bench" / "store"
    stored = ModelStore(cache).open(str(embedded_gguf()))
    span = stored.spec.whole
    ends = load_ends(stored, engine="llama", threads=threads)
    engines = {
        form: load_span(stored, span, engine="llama", dtype=form, slots=1, context_tokens=CONTEXT, threads=threads)
        for form in FORMS
    }
    tokens = Tokenizer.of(stored).encode(TEXT.read_text(encoding="utf-8"))[:TEXT_TOKENS]
    rows = ends.embed(tokens)
    decode_ms: dict[str, list[float]] = {form: [] for form in FORMS}
    prefill_ms: dict[str, list[float]] = {form: [] for form in FORMS}
    for at in range(rounds + 1):
        for form in FORMS if at % 2 else FORMS[::-1]:
            prefill, decode = _round(engines[form], rows)
            if at:  # the first one warms up
                prefill_ms[form].append(prefill)
                decode_ms[form].append(decode)
    perplexities = {form: _perplexity(engines[form], ends, tokens, rows) for form in FORMS}
    return Result(describe(), threads, decode_ms, prefill_ms, perplexities, len(tokens))


def _round(engine: SpanEngine, rows: Hidden) -> tuple[float, float]:
    """Milliseconds of a prefill, and of a token behind it."""
    slot, span = engine.open(), engine.info.span
    times = []
    for start, end in ((0, PREFILLED), *((at, at + 1) for at in range(PREFILLED, PREFILLED + DECODED))):
        began = time.perf_counter()
        engine.step([Rows(slot, start, rows[start:end], span.start, span.end)])
        times.append((time.perf_counter() - began) * 1e3)
    engine.close(slot)
    return times[0], median(times[1:])


def _perplexity(engine: SpanEngine, ends: Ends, tokens: Sequence[int], rows: Hidden) -> float:
    slot, span = engine.open(), engine.info.span
    [hidden] = engine.step([Rows(slot, 0, rows, span.start, span.end)])
    engine.close(slot)
    losses = []
    for start in range(0, len(tokens) - 1, PREFILLED):
        following = tokens[start + 1 : start + 1 + PREFILLED]
        logits = ends.logits(hidden[start : start + len(following)]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(following)), following]
        losses.append(np.log(np.exp(logits).sum(axis=1)) - chosen)
    return float(np.exp(np.concatenate(losses).mean()))


def report(result: Result) -> str:
    change = result.perplexity["q4_0"] / result.perplexity["q4_1"] - 1
    return "\n".join(
        (
            result.machine,
            f"SmolLM2-135M, 30 blocks, {result.threads} thread(s), {len(result.decode_ms['q4_1'])} rounds",
            f"{'milliseconds':<20}{'q4_1':>9}{'q4_0':>9}  faster by, middle half",
            _row("token", result.decode_ms, result.ratios(result.decode_ms)),
            _row(f"{PREFILLED} rows of a prompt", result.prefill_ms, result.ratios(result.prefill_ms)),
            f"{'perplexity':<20}{result.perplexity['q4_1']:>9.2f}{result.perplexity['q4_0']:>9.2f}  {change:+.1%}, "
            f"{result.tokens} tokens of {TEXT.name}",
        )
    )


def _row(name: str, times_ms: Mapping[str, list[float]], ratios: Sequence[float]) -> str:
    low, _, high = quantiles(ratios, n=4)
    times = "".join(f"{median(times_ms[form]):>9.2f}" for form in FORMS)
    return f"{name:<20}{times}  {median(ratios):.2f}x, {low:.2f} to {high:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.repack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_spinning()
    result = measure(given.rounds, given.threads)
    print(json.dumps(asdict(result)) if given.json else report(result))


if __name__ == "__main__":
    main()
