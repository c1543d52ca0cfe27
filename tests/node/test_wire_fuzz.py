"""The decoder against bytes that nobody meant: whatever comes, messages or `BadFrame`, and little memory.

hypothesis chooses seeds and, for message bodies, values; each seed stands for `CASES_PER_SEED` decodings, as
hypothesis' own bookkeeping costs more than a decoding. Together they are more than 100,000.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any, cast

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerllm.errors import BadFrame
from peerllm.wire.codec import HEADER_BYTES, MAX_STEP_BYTES, FrameDecoder, encode
from peerllm.wire.messages import Message, Step, Want, WireDtype, WireHidden
from tests.node.test_wire_codec import EVERY_MESSAGE
from tests.support.streams import same

pytestmark = pytest.mark.slow

CASES_PER_SEED = 50
FRAMES = [b"".join(encode(message)) for message in EVERY_MESSAGE]
SMALL_FRAMES = [frame for frame in FRAMES if len(frame) < 1000]

seeds = st.integers(0, 2**64 - 1)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def _decoded(pieces: Iterable[bytes]) -> tuple[list[Message], bool]:
    """What a decoder makes of the pieces, and whether it refused the rest. Any other exception is a bug."""
    decoder = FrameDecoder()
    messages: list[Message] = []
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                messages.append(message)
    except BadFrame:
        return messages, True
    return messages, False


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    borders = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 6)))
    return [data[start:end] for start, end in zip([0, *borders], [*borders, len(data)], strict=True)]


def _check(data: bytes, rng: random.Random) -> tuple[list[Message], bool]:
    """Decode at once and in pieces: the borders must make no difference."""
    messages, refused = _decoded([data])
    in_pieces, refused_in_pieces = _decoded(_pieces(data, rng))
    assert refused == refused_in_pieces
    assert all(same(*pair) for pair in zip(messages, in_pieces, strict=True))
    return messages, refused


def _mutated(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(6):
            case 0 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(result):
                result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDD, 0xFF))
            case 2:
                result[at:at] = rng.randbytes(rng.randint(1, 9))
            case 3:
                del result[at : at + rng.randint(1, 9)]
            case 4 if len(result) >= HEADER_BYTES:
                result[4:8] = struct.pack("<I", rng.choice((0, 1, len(result), 1 << 14, 1 << 22, 0xFFFFFFFF)))
            case _:
                result[at:at] = result[at // 2 : at]
    return bytes(result)


@_settings(1000)
@given(seeds)
def test_random_bytes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CASES_PER_SEED):
        body = rng.randbytes(rng.randint(0, 64))
        header = struct.pack("<BBHI", 0xB1, rng.randint(0, 26), 0, rng.choice((len(body), rng.randint(0, 80))))
        _check(rng.choice((body, header + body)), rng)


@_settings(2000)
@given(seeds)
def test_mutated_frames(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CASES_PER_SEED):
        frames = rng.choices(SMALL_FRAMES, k=rng.randint(1, 3))
        _check(_mutated(b"".join(frames), rng), rng)


@_settings(400)
@given(seeds)
def test_valid_frames_in_any_pieces(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CASES_PER_SEED):
        chosen = rng.choices(range(len(FRAMES)), k=rng.randint(1, 5))
        messages, refused = _check(b"".join(FRAMES[index] for index in chosen), rng)
        assert not refused
        assert all(same(EVERY_MESSAGE[index], message) for index, message in zip(chosen, messages, strict=True))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**32))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


@_settings(1500)
@given(st.integers(1, 24), st.lists(values, max_size=10) | values)
def test_control_bodies_of_any_values(code: int, body: Any) -> None:
    packed = msgpack.packb(body) or b""
    _decoded([struct.pack("<BBHI", 0xB1, code, 0, len(packed)) + packed])


uint32 = st.integers(0, 2**32 - 1)


def _rows(rows: int, hidden: int, dtype: WireDtype, seed: int) -> WireHidden:
    """Any bits at all, NaNs with payloads included."""
    bits = random.Random(seed).randbytes(rows * hidden * dtype.numpy.itemsize)
    return cast(WireHidden, np.frombuffer(bits, dtype.numpy).reshape(rows, hidden))


steps = st.builds(
    Step,
    step=uint32,
    position=uint32,
    want=st.sampled_from(Want),
    hidden=st.builds(_rows, st.integers(0, 40), st.integers(1, 70), st.sampled_from(WireDtype), seeds),
    timings=st.lists(st.tuples(uint32, uint32), max_size=64).map(tuple),
)


@_settings(1000)
@given(steps)
def test_every_step_comes_back(step: Step) -> None:
    [decoded] = FrameDecoder().feed(b"".join(encode(step)))
    assert same(decoded, step)


def test_what_is_promised_takes_no_memory_until_it_comes() -> None:
    header = struct.pack("<BBHI", 0xB1, 6, 0, MAX_STEP_BYTES)
    tracemalloc.start()
    try:
        decoders = [FrameDecoder() for _ in range(1000)]
        for decoder in decoders:
            for byte in header + b"\0":
                list(decoder.feed(bytes((byte,))))
        assert tracemalloc.get_traced_memory()[1] < 1000 * 2048
    finally:
        tracemalloc.stop()


def test_no_input_makes_the_decoder_hold_more_than_a_frame() -> None:
    frame = struct.pack("<BBHI", 0xB1, 6, 0, MAX_STEP_BYTES) + bytes(MAX_STEP_BYTES)
    bombs = [
        struct.pack("<BBHI", 0xB1, code, 0, len(body)) + body
        for code in range(1, 25)
        for body in (b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\x91" * 16000)
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            assert _decoded([bomb]) == ([], True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.reset_peak()
        assert _decoded(frame[at : at + 65536] for at in range(0, len(frame), 65536)) == ([], True)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MAX_STEP_BYTES
    finally:
        tracemalloc.stop()
