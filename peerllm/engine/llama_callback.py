"""Take the hidden states behind blocks out of a running llama.cpp graph, and add up partial sums within them.

llama.cpp asks `cb_eval` about every node before computing it, and calls it again after those it wanted.
`BlockTap` wants the nodes ``l_out-<k>`` of the blocks at which rows leave the span, copies them, and stops
the graph at the last one, so that final norm and head are never computed. The question comes about 31 times
per block: a Python callback costs 5 to 20 % of a decode step, the compiled one nothing measurable.

A slice of a span computes partial sums at two nodes of every block: the products with `attn_output` and `ffn_down`.
They are known by their weights' names, because the first has no name of its own in some architectures. The tap wants
them too, and puts the sum of all members in their place before the graph goes on.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from peerllm.engine.llama_library import LlamaLibrary

if TYPE_CHECKING:
    from peerllm.engine.exchange import Exchange

# The callback's user data: one int64 array, so that nothing is allocated per step.
TENSOR_GET, TENSOR_BYTES, TENSOR_DATA, NAME_OFFSET, SOURCE_OFFSET = range(5)
EXCHANGE, EXCHANGE_GROUP, EXPECTED_BYTES, LAST_BLOCK, COPIES, BLOCKS, TARGETS = range(5, 12)
_PREFIX = b"l_out-"
_PARTIAL = re.compile(rb"blk\.\d+\.(attn_output|ffn_down)\.weight")


class BlockTap:
    """One context's `cb_eval`: `callback` and `user_data` go into its parameters."""

    def __init__(self, library: LlamaLibrary, blocks: int, *, use_compiled: bool = True) -> None:
        self._request = np.zeros(TARGETS + blocks, np.int64)
        self._request[[TENSOR_GET, TENSOR_BYTES]] = library.tensor_get, library.tensor_bytes
        self._request[TENSOR_DATA] = library.tensor_data
        self._request[[NAME_OFFSET, SOURCE_OFFSET, BLOCKS]] = library.name_offset, library.source_offset, blocks
        self._exchange: Exchange | None = None
        self.user_data = self._request.ctypes.data
        self.compiled = use_compiled and importlib.util.find_spec("numba") is not None
        callback_type = library.api.ggml_backend_sched_eval_callback
        # kept alive here, as llama.cpp holds only the pointer
        self.callback = (
            callback_type(_compiled_callback()) if self.compiled else callback_type(_interpreted(self._request))
        )

    def want(self, targets: Mapping[int, int], expected_bytes: int) -> None:
        """Ask the next step for the output of blocks: block (from 0 in the span) -> address to copy it to."""
        request = self._request
        request[TARGETS:] = 0
        for block, address in targets.items():
            request[TARGETS + block] = address
        request[EXPECTED_BYTES] = expected_bytes
        request[LAST_BLOCK] = max(targets)
        request[COPIES] = 0

    def join(self, exchange: Exchange) -> None:
        """Let the group's sums take the place of partial ones from the next step on."""
        self._exchange = exchange  # kept alive here: the numbers are addresses
        self._request[[EXCHANGE, EXCHANGE_GROUP]] = exchange.function, exchange.address

    def check(self) -> None:
        """Raise `GroupBroken` if a sum of the last step failed, which has stopped its graph."""
        if self._exchange is not None:
            self._exchange.check()

    @property
    def waited_s(self) -> float:
        """For the sums of others, since the group was joined."""
        return self._exchange.traffic.waited_s if self._exchange is not None else 0.0

    @property
    def copies(self) -> int:
        """Outputs copied since `want`."""
        return int(self._request[COPIES])


def _interpreted(request: np.ndarray) -> Callable[[int, bool, int], bool]:
    """The same as `_compiled_callback` for machines without numba."""
    tensor_get = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_size_t] * 2)(int(request[TENSOR_GET]))
    tensor_bytes = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(int(request[TENSOR_BYTES]))
    tensor_data = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(int(request[TENSOR_DATA]))
    exchange_type = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 4)
    name_offset, blocks = int(request[NAME_OFFSET]), int(request[BLOCKS])

    def is_partial(tensor: int) -> bool:
        source = ctypes.c_uint64.from_address(tensor + int(request[SOURCE_OFFSET])).value
        return bool(source) and _PARTIAL.fullmatch(ctypes.string_at(source + name_offset)) is not None

    def answer(tensor: int, ask: bool, _user_data: int) -> bool:
        if request[EXCHANGE] and is_partial(tensor):
            values = tensor_bytes(tensor) // 4
            sums = (int(request[EXCHANGE_GROUP]), tensor_data(tensor), values)
            return ask or not exchange_type(int(request[EXCHANGE]))(*sums)
        name = ctypes.string_at(tensor + name_offset)
        number = name[len(_PREFIX) :]
        if not name.startswith(_PREFIX) or not number.isdigit() or int(number) >= blocks:
            return not ask
        target = int(request[TARGETS + int(number)])
        if ask:
            return target != 0
        if tensor_bytes(tensor) == request[EXPECTED_BYTES]:
            tensor_get(tensor, target, 0, int(request[EXPECTED_BYTES]))
            request[COPIES] += 1
        return int(number) != request[LAST_BLOCK]

    return answer


@cache
def _compiled_callback() -> int:
    """Address of the machine code; compiled once per installation, then read from numba's cache."""
    from peerllm.engine.llama_callback_compiled import block_tap

    return int(block_tap.address or 0)


def prepare_callback() -> None:
    """Compile ahead of need (a second the first time), for instance while weights are downloaded."""
    if importlib.util.find_spec("numba") is not None:
        _compiled_callback()
