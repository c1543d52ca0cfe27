"""The machine code of `llama_callback.BlockTap`: imported only where numba is installed.

It runs within llama.cpp's decode call without Python: no objects, no GIL, only the addresses in `user_data`.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false, reportPrivateImportUsage=false
# (numba gives these functions other types than their annotations could)

from __future__ import annotations

from numba import carray, cfunc, njit, types

from peerllm.engine.llama_callback import (
    BLOCKS,
    COPIES,
    EXCHANGE,
    EXCHANGE_GROUP,
    EXPECTED_BYTES,
    LAST_BLOCK,
    NAME_OFFSET,
    SOURCE_OFFSET,
    TARGETS,
    TENSOR_BYTES,
    TENSOR_DATA,
    TENSOR_GET,
)
from peerllm.engine.machine_words import address_of, bytes_at, call64, words_at

_MAX_NAME = 64  # GGML_MAX_NAME


@njit(cache=True)
def _block_of(name):
    """k of ``l_out-<k>``, -1 of every other name."""
    if name[0] != 108 or name[1] != 95 or name[2] != 111 or name[3] != 117 or name[4] != 116 or name[5] != 45:
        return -1
    block = 0
    for place in range(6, 12):
        letter = name[place]
        if letter == 0:
            return block if place > 6 else -1
        if letter < 48 or letter > 57:
            return -1
        block = block * 10 + (letter - 48)
    return -1


@njit(cache=True)
def _is_partial(tensor, request):
    """Is it the product with ``blk.<k>.attn_output.weight`` or ``blk.<k>.ffn_down.weight``?"""
    source = carray(words_at(tensor + request[SOURCE_OFFSET]), 1)[0]
    if source == 0:
        return False
    name = carray(bytes_at(source + request[NAME_OFFSET]), _MAX_NAME)
    if name[0] != 98 or name[1] != 108 or name[2] != 107 or name[3] != 46:  # blk.
        return False
    place = 4
    while place < 10 and 48 <= name[place] <= 57:
        place += 1
    if name[place] != 46:
        return False
    if name[place + 1] == 97:  # attn_o..., and not attn_norm
        return name[place + 6] == 111
    return name[place + 1] == 102 and name[place + 5] == 100  # ffn_d...


@cfunc(types.boolean(types.CPointer(types.uint8), types.boolean, types.CPointer(types.int64)), cache=True)
def block_tap(tensor, ask, user_data):
    """``bool cb_eval(struct ggml_tensor *, bool ask, void * user_data)``."""
    request, address = carray(user_data, TARGETS), address_of(tensor)
    if request[EXCHANGE] != 0 and _is_partial(address, request):
        if ask:
            return True
        data = call64(request[TENSOR_DATA], (address,))
        values = call64(request[TENSOR_BYTES], (address,)) // 4
        return call64(request[EXCHANGE], (request[EXCHANGE_GROUP], data, values)) == 0
    start = request[NAME_OFFSET]
    block = _block_of(carray(tensor, start + _MAX_NAME)[start:])
    if block < 0 or block >= request[BLOCKS]:
        return not ask
    target = carray(user_data, TARGETS + request[BLOCKS])[TARGETS + block]
    if ask:
        return target != 0
    length = request[EXPECTED_BYTES]
    if call64(request[TENSOR_BYTES], (address,)) == length:
        call64(request[TENSOR_GET], (address, target, 0, length))
        request[COPIES] += 1
    return block != request[LAST_BLOCK]
