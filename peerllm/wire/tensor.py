"""Hidden states between the engines' float32 and the type they travel in.

A decode step passes here once in many milliseconds, when none of this lies in the processor's caches any more: then
each function of numpy's takes some 20 times as long as in a loop (docs/performance.md#one-decode-step).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peerllm.wire.messages import WireDtype, WireHidden

_FLOAT16_LIMIT = np.float32(65504.0)

ABSURD = 1e7
"""No activation is as large: those of known models stay below 1e5, "massive" ones included (arXiv 2402.17762)."""


def to_wire(hidden: NDArray[np.float32], dtype: WireDtype) -> WireHidden:
    """``[T, D]`` in the session's type; in float32 after all when float16 could not hold it.

    Some models have a few activations beyond 65504. As every step names its own type, such a step
    costs twice the bytes instead of an answer of infinities.
    """
    travels_as = WireDtype.FLOAT16 if dtype is WireDtype.FLOAT16 and fits_float16(hidden) else WireDtype.FLOAT32
    return hidden.astype(travels_as.numpy, order="C", copy=False)


def from_wire(hidden: WireHidden) -> NDArray[np.float32]:
    """``[T, D]`` float32, C-contiguous and aligned, ready for an engine; read-only where nothing had to be copied."""
    rows = hidden.astype(np.float32, order="C", copy=False)
    return rows if rows.flags.aligned else rows.copy()


def fits_float16(hidden: NDArray[np.float32]) -> bool:
    """Whether every value stays finite as float16; looking is 6 times cheaper than converting in vain."""
    return not hidden.size or bool(max(hidden.max(), -hidden.min()) <= _FLOAT16_LIMIT)


def is_sound(hidden: NDArray[np.floating]) -> bool:
    """False when any value is NaN, infinite or absurd: a broken model, or a peer that sends rubbish."""
    if len(hidden) == 1 and hidden.itemsize == 4 and np.vdot(hidden, hidden) <= ABSURD**2:
        return True  # as even the sum of all squares is no larger than an absurd value's
    return not hidden.size or max(float(hidden.max()), -float(hidden.min())) <= ABSURD  # NaN compares as False
