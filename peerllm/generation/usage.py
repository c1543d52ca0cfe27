"""What the hops of a route do for one step, told to whoever counts it (`giving.asking_side`)."""

from __future__ import annotations

from collections.abc import Iterable

from peerllm.generation.hop_link import HopLink
from peerllm.wire.codec import frame_bytes
from peerllm.wire.messages import MAX_TIMINGS, Want, is_decode

Timings = tuple[tuple[int, int], ...]
"""Of one frame, (queue, compute) in microseconds for each hop."""

_FRAME_BYTES = frame_bytes(timings=MAX_TIMINGS)
_WIDEST = 4  # bytes of a value: what float16 cannot hold travels as float32


class Usage:
    """The links of one route, in order, for the time of one step."""

    def __init__(self, links: Iterable[HopLink]) -> None:
        self._links = tuple(links)

    def sent(self, rows: int, width: int, want: Want) -> None:
        """Rows ``[rows, width]``, in one frame unless they want nothing, are to go through every hop."""
        for link in self._links:
            if link.using is not None:
                link.using.sent(rows, decode=is_decode(rows, want), row_bytes=width * _WIDEST + _FRAME_BYTES)

    def answered(self, elapsed_s: float, timings: Iterable[Timings]) -> None:
        """All that was sent has come out, with these timings."""
        waited_s = shares(elapsed_s, timings, len(self._links))
        for link, share_s in zip(self._links, waited_s, strict=True):
            if link.using is not None:
                link.using.answered(share_s)

    def broken_off(self) -> None:
        """What is under way will not come out."""
        for link in self._links:
            if link.using is not None:
                link.using.broken_off()


def shares(elapsed_s: float, timings: Iterable[Timings], hops: int) -> list[float]:
    """The time that some frames took, divided among the hops as they say that they had them."""
    had_us = [0] * hops
    for frame in timings:
        for at, (queue_us, compute_us) in enumerate(frame[:hops]):
            had_us[at] += queue_us + compute_us
    whole_us = sum(had_us)
    return [elapsed_s * us / whole_us if whole_us else elapsed_s / hops for us in had_us]
