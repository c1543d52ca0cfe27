"""What compiled code does with addresses: call a function there, read memory there. Needs numba.

Numba keeps machine code by the file of the function that was compiled: who changes these changes their callers' too.
"""
# pyright: reportPrivateImportUsage=false
# (numba gives these functions other types than their annotations could)

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _call(bits):
    """An intrinsic: call the function at an address with int64 arguments; what it returns has so many bits."""

    @intrinsic
    def call(_typing, function, arguments):
        def generate(_context, builder, signature, values):
            address, packed = values
            words = cgutils.unpack_tuple(builder, packed, count=signature.args[1].count)
            kind = ir.FunctionType(ir.IntType(bits), [_WORD] * len(words))
            result = builder.call(builder.inttoptr(address, kind.as_pointer()), words)
            return builder.sext(result, _WORD) if bits < 64 else result

        return types.int64(types.int64, arguments), generate

    return call


call32, call64 = _call(32), _call(64)


def _memory(element):
    """An intrinsic: an address as a pointer to elements of this type."""

    @intrinsic
    def memory(_typing, address):
        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return memory


bytes_at, halves_at, integers_at = _memory(types.uint8), _memory(types.uint16), _memory(types.uint32)
floats_at, words_at, signed_at = _memory(types.float32), _memory(types.int64), _memory(types.int8)


@intrinsic
def address_of(_typing, pointer):
    """A pointer as int64."""

    def generate(_context, builder, _signature, values):
        return builder.ptrtoint(values[0], _WORD)

    return types.int64(pointer), generate


def _same_bits(source, target):
    @intrinsic
    def same_bits(_typing, value):
        def generate(context, builder, _signature, values):
            return builder.bitcast(values[0], context.get_value_type(target))

        return target(source), generate

    return same_bits


bits_of, float_of = _same_bits(types.float32, types.uint32), _same_bits(types.uint32, types.float32)
