"""The yardstick: the whole model in stock llama.cpp, here or in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


class WholeLlama:
    """The whole GGUF in one llama.cpp context without any callback, greedy."""

    def __init__(self, path: Path, *, threads: int, streams: int, context_tokens: int) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p())
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_seq_max = streams * context_tokens, streams
        context.n_threads = context.n_threads_batch = threads
        self._context: Any = llama_cpp.llama_init_from_model(self._model, context)
        vocabulary: Any = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def decode(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        """Tokens per second of all prompts together while decoding `count` each, and of the prefill."""
        memory: Any = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, True)
        started = time.perf_counter()
        tokens = []
        for stream, prompt in enumerate(prompts):
            self._run([(token, at, stream, at == len(prompt) - 1) for at, token in enumerate(prompt)])
            tokens.append(self._likeliest(len(prompt) - 1))
        prefilled = time.perf_counter()
        for step in range(count - 1):
            self._run([(token, len(prompts[s]) + step, s, True) for s, token in enumerate(tokens)])
            tokens = [self._likeliest(stream) for stream in range(len(prompts))]
        decode_s = time.perf_counter() - prefilled
        return (count - 1) * len(prompts) / decode_s, sum(map(len, prompts)) / (prefilled - started)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, stream, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, stream, wanted
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _likeliest(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())


class WholeProcess:
    """`WholeLlama` elsewhere: a program that is only that, whose threads wait as OpenMP has them wait by default."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """For `whole_process` only."""
        self._process = process

    async def tokens_per_s(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """Of all prompts together, while decoding `count` each."""
        return (await asyncio.to_thread(self._ask, prompts, count))[0]

    async def first_token_s(self, prompt: Sequence[int]) -> float:
        """From the prompt to the first token."""
        return len(prompt) / (await asyncio.to_thread(self._ask, [prompt], 2))[1]

    def _ask(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes to the whole model")
        print(json.dumps([list(map(list, prompts)), count]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the whole model ended with {self._process.wait()}")
        decode, prefill = json.loads(line)
        return decode, prefill


@contextmanager
def whole_process(path: Path, *, threads: int, streams: int = 1, context_tokens: int = 1024) -> Iterator[WholeProcess]:
    """The whole model in a process that ends with the context."""
    command = [sys.executable, "-m", "bench.whole", str(path), *map(str, (threads, streams, context_tokens))]
    stock = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=stock) as process:
        try:
            yield WholeProcess(process)
        finally:
            process.communicate()  # closes stdin: its sign to end


@llama_cpp.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: object) -> None:
    pass


def _answer() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    for name in ("threads", "streams", "context_tokens"):
        parser.add_argument(name, type=int)
    whole = WholeLlama(**vars(parser.parse_args()))
    for line in sys.stdin:
        prompts, count = json.loads(line)
        print(json.dumps(whole.decode(prompts, count)), flush=True)
    whole.close()


if __name__ == "__main__":
    _answer()
