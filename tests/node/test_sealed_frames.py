"""Records of a direct connection: in their order, whole and unchanged, or not at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm.errors import BadFrame
from peerllm.wire import sealed_frames
from peerllm.wire.channel_keys import TAG_BYTES
from peerllm.wire.sealed_frames import (
    LENGTH,
    MAX_PLAIN_BYTES,
    MAX_SEALED_BYTES,
    RECORDS_PER_KEY,
    Opener,
    Sealer,
    sealed_bytes,
)

KEY = bytes(range(32))


def _records(sealed: list[bytes]) -> list[bytes]:
    """Of what `Sealer.seal` returns, without their lengths."""
    data, records = b"".join(sealed), list[bytes]()
    while data:
        behind = LENGTH.size + sealed_bytes(LENGTH.unpack_from(data)[0])
        records.append(data[LENGTH.size : behind])
        data = data[behind:]
    return records


@pytest.mark.parametrize("size", [1, 28, MAX_PLAIN_BYTES, MAX_PLAIN_BYTES + 1, 3 * MAX_PLAIN_BYTES + 5])
def test_what_is_sealed_opens(size: int) -> None:
    plain = os.urandom(size)
    opener = Opener(KEY)
    records = _records(Sealer(KEY).seal(memoryview(plain)))
    assert all(len(record) <= MAX_SEALED_BYTES for record in records)
    assert b"".join(map(opener.open, records)) == plain


@given(st.data())
def test_any_record_that_is_changed_repeated_left_out_moved_or_cut_is_refused(data: st.DataObject) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    records = [record for number in range(4) for record in _records(sealer.seal(bytes((number,)) * 40))]
    good = data.draw(st.integers(0, 2))
    for record in records[:good]:
        opener.open(record)
    bit = data.draw(st.integers(0, 8 * len(records[good]) - 1))
    changed = bytearray(records[good])
    changed[bit // 8] ^= 1 << bit % 8
    wrong = data.draw(
        st.sampled_from(
            [
                bytes(changed),
                records[good - 1],  # of the past, or at first of the future
                records[good + 1],
                records[good][: data.draw(st.integers(0, len(records[good]) - 1))],
                records[good] + bytes(1),
                _records(Sealer(bytes(32)).seal(bytes(40)))[0],
            ]
        )
    )
    with pytest.raises(BadFrame):
        opener.open(wrong)


def test_nothing_opens_behind_a_record_that_did_not() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    [first], [second] = _records(sealer.seal(b"first")), _records(sealer.seal(b"second"))
    with pytest.raises(BadFrame):
        opener.open(second)
    with pytest.raises(BadFrame):
        opener.open(first)


@pytest.mark.parametrize("length", [0, 1, TAG_BYTES, MAX_SEALED_BYTES + 1, 2**32 - 1])
def test_lengths_that_no_record_has_are_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(BadFrame):
        sealed_bytes(length)


def test_keys_change_on_both_sides_at_the_same_record() -> None:
    sealer, opener, one_key = Sealer(KEY), Opener(KEY), Opener(KEY)
    for _ in range(RECORDS_PER_KEY):
        [record] = _records(sealer.seal(b"x"))
        opener.open(record)
    one_key._number = RECORDS_PER_KEY - 1
    one_key.open(record)
    old = one_key._aead
    [record] = _records(sealer.seal(b"y"))
    assert opener.open(record) == b"y"
    assert one_key.open(record) == b"y"
    assert one_key._aead is not old
    assert sealed_frames.RECORDS_PER_KEY * MAX_PLAIN_BYTES <= 1 << 32
