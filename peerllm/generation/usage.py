"""What the hops of a route do for one step, told to whoever counts it (`giving.asking_side`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peerllm.generation.hop_link import HopLink
from peerllm.wire.codec import frame_bytes
from peerllm.wire.messages import MAX_TIMINGS, Step, Want, is_decode

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

    def answered(self, elapsed_s: float, outputs: Sequence[Step]) -> None:
        """All that was sent has come out."""
        waited_s = shares(elapsed_s, outputs, len(self._links))
        for link, share_s in zip(self._links, waited_s, strict=True):
            if link.using is not None:
                link.using.answered(share_s)

    def broken_off(self) -> None:
        """What is under way will not come out."""
        for link in self._links:
            if link.using is not None:
                link.using.broken_off()


def shares(elapsed_s: float, outputs: Sequence[Step], hops: int) -> list[float]:
    """The time that a step took, divided among the hops as they say that they had it."""
    had_us = [0] * hops
    for output in outputs:
        for at, (queue_us, compute_us) in enumerate(output.timings[:hops]):
            had_us[at] += queue_us + compute_us
    whole_us = sum(had_us)
    return [elapsed_s * us / whole_us if whole_us else elapsed_s / hops for us in had_us]
