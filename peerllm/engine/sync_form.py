"""The form in which members send one another their partial sums, and who sends what to whom.

The sum that every member ends with is a function of the partial sums alone: each is rounded to the form once, by the
member that has it, and they are added in float32 in the order of the members. So it is the same on all members, and
does not depend on how many rows are in a step, nor on which way `way_of` chooses for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peerllm_swarm.group_traffic import SyncForm, Way
from peerllm_swarm.slices import MOST_MEMBERS

QUANTUM = 32
"""Values that share one scale in Q80, and on which sums are cut where members add up a part each."""

LEAST_Q80 = np.float32(1e-30)
"""Values below are nothing: their scale is 0 in float16."""

LARGE_BYTES = 64 << 10
"""From here on the time on the wire outweighs a second message's latency (0.5 ms at 1 Gbit/s)."""

NEVER = 1 << 62

_Q80 = np.dtype([("scale", "<f2"), ("values", "i1", (QUANTUM,))])


def encode(form: SyncForm, values: NDArray[np.float32]) -> bytes:
    """Rounded to the form, Q80 as ggml's Q8_0; the same bytes as the machine code's."""
    if form is SyncForm.FLOAT32:
        return values.astype("<f4", copy=False).tobytes()
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype("<f2").tobytes() if form is SyncForm.FLOAT16 else _encode_q80(values)


def decode(form: SyncForm, encoded: bytes | memoryview) -> NDArray[np.float32]:
    if form is SyncForm.Q80:
        blocks = np.frombuffer(encoded, _Q80)
        with np.errstate(invalid="ignore"):
            return (blocks["values"] * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return np.frombuffer(encoded, "<f4" if form is SyncForm.FLOAT32 else "<f2").astype(np.float32)


def way_of(values: int, members: int, form: SyncForm) -> Way:
    """By size: parts where they send fewer bytes and there are many of them.

    By parts, everybody adds up some of the values and sends their sum to all, in float32 so that it is the same sum:
    a ring's bytes in 2 steps instead of its `2 * (members - 1)`. A ring would also add each part in another order.
    """
    return Way.BY_PARTS if values >= by_parts_from(members, form) else Way.ALL_TO_ALL


def by_parts_from(members: int, form: SyncForm) -> int:
    """So many values go by parts, and more; `NEVER` where that would only send more bytes."""
    of_quantum = form.size(QUANTUM)
    if of_quantum + SyncForm.FLOAT32.size(QUANTUM) >= members * of_quantum:
        return NEVER
    return -(-LARGE_BYTES // ((members - 1) * of_quantum)) * QUANTUM


def sent_bytes(values: int, members: int, form: SyncForm) -> int:
    """By one member at most for one sum, without frames."""
    if way_of(values, members, form) is Way.ALL_TO_ALL:
        return (members - 1) * form.size(values)
    part = max(end - start for start, end in parts(values, members))
    return (members - 1) * (form.size(part) + SyncForm.FLOAT32.size(part))


def parts(values: int, members: int) -> list[tuple[int, int]]:
    """Which of the values each member adds up: whole quanta, as even as they come."""
    if not 2 <= members <= MOST_MEMBERS:
        raise ValueError(f"a group has 2 to {MOST_MEMBERS} members, not {members}")
    quanta = -(-values // QUANTUM)
    ends = [min(values, quanta * (member + 1) // members * QUANTUM) for member in range(members)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _encode_q80(values: NDArray[np.float32]) -> bytes:
    rows = values.reshape(-1, QUANTUM)
    largest = np.abs(rows).max(axis=1)
    usable = (largest > LEAST_Q80) & np.isfinite(largest)  # what holds no number stays none by its scale
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=usable)
    blocks = np.empty(len(rows), _Q80)
    blocks["scale"] = largest / np.float32(127)
    blocks["values"] = np.rint(np.where(usable[:, None], rows * inverse[:, None], 0))
    return blocks.tobytes()
