"""One loaded file in llama.cpp: weights, KV cache and threads, set up alike for spans and for heads."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerllm.engine.llama_callback import BlockTap
from peerllm.engine.llama_library import llama_library, recent_errors
from peerllm.engine.span_engine import Hidden
from peerllm.engine.thread_cap import ThreadCap
from peerllm.engine.threads import StepThreads
from peerllm.errors import BadModelFile, EngineError, NoMemory

GRAPH_ROWS = 48
"""Rows computed at once (n_ubatch). ggml's attention takes another kernel, with other roundings, from 64 rows on: below
that a session's numbers do not depend on what else is in its batch, on how a prompt is cut into chunks, or on whether
tokens are replayed in one piece after a hop was lost. Costs up to 16 % of prefill at D = 2048, nothing at D = 576."""

FLASH_ATTENTION = 1
"""LLAMA_FLASH_ATTN_TYPE_ENABLED, in every context: spans and whole models then do the same arithmetic."""


class RowBatch:
    """One `llama_batch` of hidden states, allocated once and filled in place."""

    def __init__(self, hidden: int) -> None:
        api = llama_library().api
        self._hidden: NDArray[np.float32] = np.zeros((GRAPH_ROWS, hidden), np.float32)
        self._positions = np.zeros(GRAPH_ROWS, np.int32)
        self._sequences = np.zeros(GRAPH_ROWS, np.int32)
        self._sequence_counts = np.ones(GRAPH_ROWS, np.int32)
        self._wanted = np.ones(GRAPH_ROWS, np.int8)
        offsets = np.arange(GRAPH_ROWS, dtype=np.uintp) * self._sequences.itemsize
        self._sequence_pointers = self._sequences.ctypes.data + offsets
        self.struct = api.llama_batch(
            n_tokens=0,
            token=None,
            embd=_pointer(self._hidden, ctypes.c_float),
            pos=_pointer(self._positions, api.llama_pos),
            n_seq_id=_pointer(self._sequence_counts, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(api.llama_seq_id)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def put(self, at: int, hidden: Hidden, sequence: int, position: int) -> int:
        """Place rows at index `at`; the index behind them, where the batch now ends."""
        end = at + len(hidden)
        self._hidden[at:end] = hidden
        self._sequences[at:end] = sequence
        if end == at + 1:
            self._positions[at] = position
        else:
            self._positions[at:end] = range(position, position + end - at)
        self.struct.n_tokens = end
        return end


class LlamaContext:
    """Weights of one GGUF and a KV cache for several sequences; belongs to one thread."""

    def __init__(
        self,
        api: Any,
        model: Any,
        context: Any,
        threads: StepThreads,
        *,
        tap: BlockTap | None = None,
        in_group: bool = False,
    ) -> None:
        self._api = api
        self._model = model
        self._context = context
        self._memory = api.llama_get_memory(context)
        self._threads = threads
        self._tap = tap
        self._in_group = in_group
        self._used = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        sequences: int,
        tokens: int,
        threads: int,
        cap: ThreadCap | None = None,
        tap: BlockTap | None = None,
        in_group: bool = False,
    ) -> LlamaContext:
        """Load `path` with a KV cache (float16) for `tokens` in all sequences together.

        The cache is one buffer for all of them, so that one batch is one graph whichever sequences it names.

        Args:
            threads: 0 finds out while computing how many are fastest.
            cap: never more than this, obeyed from one step to the next.
            in_group: every step has as many rows as with other members of a group, whatever threads each has.
        Raises:
            EngineUnavailable: llama.cpp is not installed.
            BadModelFile: llama.cpp refuses the file.
            NoMemory: the KV cache cannot be allocated.
        """
        api = llama_library().api
        model = _load_model(api, path)
        parameters = api.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_ubatch = GRAPH_ROWS
        parameters.n_batch = max(GRAPH_ROWS, sequences)  # llama.cpp aborts the process if it is less
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads or 1
        parameters.flash_attn_type = FLASH_ATTENTION
        parameters.kv_unified = True
        parameters.no_perf = True
        if tap is not None:
            parameters.cb_eval, parameters.cb_eval_user_data = tap.callback, tap.user_data
        context = api.llama_init_from_model(model, parameters)
        if context is None:
            api.llama_model_free(model)
            raise NoMemory(f"no memory for a KV cache of {tokens} tokens beside {path.name}: {recent_errors()}")
        return cls(api, model, context, StepThreads(threads, cap), tap=tap, in_group=in_group)

    @property
    def weights_bytes(self) -> int:
        return self._api.llama_model_size(self._model)

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache holds: what was asked for, rounded up."""
        return self._api.llama_n_ctx(self._context)

    @property
    def may_split(self) -> bool:
        """Is there more than one thread over which a row's attention could be split, here or at another member?"""
        return self._in_group or self._threads.may_be_several

    def decode(self, batch: RowBatch, blocks: int) -> None:
        """Run the batch through `blocks` of the file's blocks; raises `EngineError`."""
        if self._context is None:
            raise EngineError("this engine was shut down")
        rows, started = batch.struct.n_tokens, self._computing_s()
        self._use(self._threads.threads(rows))
        status = self._api.llama_decode(self._context, batch.struct)
        if status:
            raise EngineError(f"llama.cpp could not compute {rows} rows ({status}): {recent_errors()}")
        self._threads.observe_step(rows, (self._computing_s() - started) / blocks)

    def logits(self, into: NDArray[np.float32]) -> None:
        """Copy the last batch's logits, ``[T, V]``."""
        into[:] = np.ctypeslib.as_array(self._api.llama_get_logits(self._context), shape=into.shape)

    def give_normed(self, wanted: bool) -> None:
        """Whether the next batches also leave what comes out of the final norm, for `normed`."""
        if self._context is not None:
            self._api.llama_set_embeddings(self._context, wanted)

    def normed(self, into: Hidden) -> None:
        """Copy what came out of the last batch's final norm, ``[T, D]``."""
        into[:] = np.ctypeslib.as_array(self._api.llama_get_embeddings(self._context), shape=into.shape)

    def forget(self, sequence: int, to: int) -> None:
        """Drop the sequence's tokens from position `to` on."""
        if self._context is not None:  # sessions may be closed behind an engine that is gone
            self._api.llama_memory_seq_rm(self._memory, sequence, to, -1)

    def share(self, sequence: int, other: int, start: int, end: int = -1) -> None:
        """Let another sequence have the tokens at ``[start, end)`` (-1: to the last) too, in the same cells."""
        if self._context is not None:
            self._api.llama_memory_seq_cp(self._memory, sequence, other, start, end)

    def move(self, sequence: int) -> None:
        """Into the lowest cells that are free or its own, in the order of its tokens; raises `EngineError`."""
        if self._context is None:
            return
        size = self._api.llama_state_seq_get_size(self._context, sequence)
        state = (ctypes.c_uint8 * size)()
        copied = self._api.llama_state_seq_get_data(self._context, state, size, sequence)
        self.forget(sequence, 0)
        if copied != size or self._api.llama_state_seq_set_data(self._context, state, size, sequence) != size:
            raise EngineError(f"llama.cpp could not move a session within its cache: {recent_errors()}")

    def set_threads(self, threads: int) -> None:
        """Use so many threads from the next step on; 0 as in `open`."""
        self._threads = StepThreads(threads, self._threads.cap)

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        if self._context is not None:
            self._api.llama_free(self._context)
            self._api.llama_model_free(self._model)
            self._context = self._model = self._memory = None

    def _computing_s(self) -> float:
        """A clock that stands still while other members of a group are waited for: no threads of ours help there."""
        return time.monotonic() - (self._tap.waited_s if self._tap is not None else 0.0)

    def _use(self, threads: int) -> None:
        if threads != self._used:
            self._used = threads
            self._api.llama_set_n_threads(self._context, threads, threads)


def _load_model(api: Any, path: Path) -> Any:
    parameters = api.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = api.llama_model_load_from_file(str(path).encode(), parameters)
    if model is None:
        raise BadModelFile(f"llama.cpp refuses {path}: {recent_errors()}")
    return model


def _pointer(array: np.ndarray, element: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(element))
