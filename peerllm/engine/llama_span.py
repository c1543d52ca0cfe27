"""`SpanEngine` over llama.cpp: one context per loaded span, one sequence per session.

Rows of many sessions travel in one batch; their hidden states are taken behind the block at which each leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peerllm.engine.llama_callback import BlockTap
from peerllm.engine.llama_context import GRAPH_ROWS, LlamaContext, RowBatch
from peerllm.engine.llama_library import llama_library
from peerllm.engine.ordered_cache import OrderedCache, sequences_for
from peerllm.engine.slots import Slots
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import EngineError
from peerllm.model.spec import ModelSpec
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.engine.exchange import Exchange


@dataclass(frozen=True)
class _Piece:
    """Rows ``[start, end)`` of one entry of a batch, which go into one graph."""

    entry: int
    start: int
    end: int


class LlamaSpan:
    """Blocks of one GGUF with a KV cache for several sessions; belongs to one thread."""

    def __init__(
        self, context: LlamaContext, tap: BlockTap, info: EngineInfo, hidden: int, *, alone: bool = True
    ) -> None:
        self._info = info
        self._context = context
        self._tap = tap
        self._hidden = hidden
        self._ready = alone
        self._slots = Slots(info, hidden)
        self._cache = OrderedCache(context, info.slots)
        self._batch = RowBatch(hidden)
        self._outputs: dict[int, Hidden] = {}  # exit -> the rows of one graph behind it

    @classmethod
    def load(
        cls,
        path: Path,
        spec: ModelSpec,
        span: BlockSpan,
        *,
        slots: int,
        context_tokens: int,
        threads: int,
        cap: ThreadCap | None = None,
        use_compiled: bool = True,
        in_group: bool = False,
    ) -> LlamaSpan:
        """Load what `span_gguf.cut_span` wrote; arguments and errors are those of `LlamaContext.open`.

        With `in_group` what `slice_gguf.cut_slice` wrote: `spec` has the slice's heads, and nothing is computed before
        the slice has joined a group.
        """
        tap = BlockTap(llama_library(), len(span), use_compiled=use_compiled)
        tokens = slots * context_tokens
        context = LlamaContext.open(
            path,
            sequences=sequences_for(slots),
            tokens=tokens,
            threads=threads,
            cap=cap,
            tap=tap,
            in_group=in_group,
        )
        info = EngineInfo(
            engine="llama",
            dtype=spec.quantisation,
            device="cpu",
            span=span,
            slots=slots,
            context_tokens=context_tokens,
            weights_bytes=context.weights_bytes,
            kv_bytes=spec.kv_bytes_per_token() * len(span) * context.tokens,
            free_entry=False,
        )
        return cls(context, tap, info, spec.hidden, alone=not in_group)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def join(self, exchange: Exchange) -> None:
        """Exchange partial sums through this from the next step on; see `SliceEngine`."""
        self._tap.join(exchange)
        self._ready = True

    def open(self) -> int:
        return self._slots.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        if not self._ready:
            raise EngineError(f"a slice of span {self._info.span} computes nothing before it has joined its group")
        self._slots.check(batch)
        for rows in batch:
            self._refuse_late_entry(rows)
        results = [np.empty(rows.hidden.shape, np.float32) for rows in batch]
        for pieces in _graphs(batch):
            self._run(batch, pieces, results)
        self._slots.advance(batch)
        return results

    def fork(self, source: int, to: int, into: int) -> None:
        self._slots.fork(source, to, into)
        try:
            self._cache.copy(source, to, into)
        except EngineError:
            self._slots.rewind(into, 0)
            self._cache.forget(into, 0)
            raise

    def rewind(self, slot: int, to: int) -> None:
        if self._slots.rewind(slot, to) > to:
            self._cache.forget(slot, to)

    def close(self, slot: int) -> None:
        self._slots.close(slot)
        self._cache.forget(slot, 0)

    def set_threads(self, threads: int) -> None:
        """Use so many threads from the next step on; 0 finds out how many."""
        self._context.set_threads(threads)

    def shutdown(self) -> None:
        self._context.close()
        self._outputs.clear()

    def _refuse_late_entry(self, rows: Rows) -> None:
        if rows.enter != self._info.span.start:
            raise EngineError(f"llama.cpp enters span {self._info.span} at its start, not at block {rows.enter}")

    def _run(self, batch: Sequence[Rows], pieces: Sequence[_Piece], results: Sequence[Hidden]) -> None:
        """One graph: fill the batch, compute, give each piece the rows behind its exit."""
        self._cache.make_room(sum(piece.end - piece.start for piece in pieces))
        end = 0
        for piece in pieces:
            rows = batch[piece.entry]
            sequence = self._cache.sequence(rows.slot)
            end = self._batch.put(end, rows.hidden[piece.start : piece.end], sequence, rows.position + piece.start)
        companion = self._cache.companion() if end == 1 else None
        if companion is not None:
            first = batch[pieces[0].entry]
            end = self._batch.put(end, first.hidden[pieces[0].start : pieces[0].end], companion, 0)
        try:
            self._compute(batch, {batch[piece.entry].exit for piece in pieces}, end)
        finally:
            if companion is not None:
                self._context.forget(companion, 0)
        start = 0
        for piece in pieces:
            end = start + piece.end - piece.start
            self._cache.note(batch[piece.entry].slot, end - start)
            results[piece.entry][piece.start : piece.end] = self._output(batch[piece.entry].exit)[start:end]
            start = end

    def _compute(self, batch: Sequence[Rows], exits: set[int], rows: int) -> None:
        first = self._info.span.start
        targets = {leave - first - 1: self._output(leave).ctypes.data for leave in exits}
        self._tap.want(targets, rows * self._hidden * 4)
        try:
            self._context.decode(self._batch, max(exits) - first)
            self._tap.check()
            if self._tap.copies != len(targets):
                raise EngineError(f"llama.cpp gave {self._tap.copies} of {len(targets)} outputs of {self._info.span}")
        except EngineError:
            for entry in batch:  # earlier graphs of this step went well, and must not be kept
                self._cache.forget(entry.slot, entry.position)
            raise

    def _output(self, leave: int) -> Hidden:
        if leave not in self._outputs:
            self._outputs[leave] = np.empty((GRAPH_ROWS, self._hidden), np.float32)
        return self._outputs[leave]


def _graphs(batch: Sequence[Rows]) -> Iterator[list[_Piece]]:
    """All rows in order, distributed over graphs of at most `GRAPH_ROWS`."""
    pieces: list[_Piece] = []
    room = GRAPH_ROWS
    for entry, rows in enumerate(batch):
        start, count = 0, len(rows.hidden)
        while start < count:
            end = min(count, start + room)
            pieces.append(_Piece(entry, start, end))
            room -= end - start
            start = end
            if not room:
                yield pieces
                pieces, room = [], GRAPH_ROWS
    if pieces:
        yield pieces
