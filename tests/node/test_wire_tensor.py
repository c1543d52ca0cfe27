import numpy as np
import pytest

from peerllm.wire.messages import WireDtype
from peerllm.wire.tensor import fits_float16, from_wire, is_sound, to_wire


def _rows(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_float32_travels_bit_for_bit_without_a_copy() -> None:
    hidden = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    assert np.shares_memory(to_wire(hidden, WireDtype.FLOAT32), hidden)
    assert np.shares_memory(from_wire(hidden), hidden)


def test_float16_keeps_eleven_bits() -> None:
    hidden = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    wire = to_wire(hidden, WireDtype.FLOAT16)
    assert wire.dtype == np.float16
    np.testing.assert_allclose(from_wire(wire), hidden, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("values", [(65505.0, 0.0), (0.0, -1e30), (np.nan, 1.0), (1.0, -np.inf)])
def test_what_float16_cannot_hold_travels_as_float32(values: tuple[float, ...]) -> None:
    wire = to_wire(_rows(*values), WireDtype.FLOAT16)
    assert wire.dtype == np.float32
    np.testing.assert_array_equal(from_wire(wire), _rows(*values))


def test_the_largest_float16_fits() -> None:
    assert fits_float16(_rows(65504.0, -65504.0))
    assert is_sound(to_wire(_rows(65504.0, -65504.0), WireDtype.FLOAT16))


def test_no_rows_are_fine() -> None:
    assert to_wire(np.zeros((0, 64), np.float32), WireDtype.FLOAT16).shape == (0, 64)
    assert is_sound(np.zeros((0, 64), np.float16))


def test_a_slice_of_rows_becomes_contiguous() -> None:
    hidden = np.zeros((4, 64), np.float32)[:, ::2]
    assert to_wire(hidden, WireDtype.FLOAT32).flags.c_contiguous


def test_rows_at_an_odd_address_become_aligned() -> None:
    unaligned = np.frombuffer(bytes(1 + 4 * 64), np.float32, offset=1).reshape(1, 64)
    assert from_wire(unaligned).flags.aligned


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rubbish_is_noticed(value: float) -> None:
    assert not is_sound(_rows(0.0, value))


@pytest.mark.parametrize(
    ("value", "sound"), [(3e3, True), (9.9e6, True), (-9.9e6, True), (1.1e7, False), (-1.1e7, False), (1e30, False)]
)
def test_large_is_sound_and_absurd_is_not_alone_and_among_others(value: float, sound: bool) -> None:
    row = np.full((1, 64), value, np.float32)
    assert is_sound(row) is sound
    assert is_sound(np.concatenate((row, row))) is sound
