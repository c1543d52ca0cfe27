"""What `exchange_compiled` does, in Python: for machines without numba, and to compare it with. The bytes are equal."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from peerllm.engine.exchange_layout import (
    COUNT,
    CULPRIT,
    DEADLINE_NS,
    OUTCOME,
    OWN,
    PART,
    RECEIVED_BYTES,
    SENT_BYTES,
    SUM,
    WAITED_NS,
    Outcome,
)
from peerllm.engine.sealed_link import Context, SealedLink
from peerllm.engine.sync_form import QUANTUM, decode, encode, parts, way_of
from peerllm.errors import GroupBroken
from peerllm_swarm.group_traffic import SyncForm, Way

Group = NDArray[np.int64]
Frames = Mapping[int, bytes]  # by member


class _Failed(Exception):
    def __init__(self, outcome: Outcome, member: int) -> None:
        self.outcome, self.member = outcome, member


def all_reduce(group: Group, links: Sequence[SealedLink | None], form: SyncForm, values: NDArray[np.float32]) -> None:
    """Replace `values` by the group's sums; how it went stands in `group[OUTCOME]`."""
    if group[OUTCOME]:
        return
    group[OUTCOME] = Outcome.GONE  # stands if this is called from C and raises something unforeseen
    others = [link for link in links if link is not None]
    try:
        if form is SyncForm.Q80 and len(values) % QUANTUM:
            raise _Failed(Outcome.UNEVEN, int(group[OWN]))
        if way_of(len(values), len(links), form) is Way.ALL_TO_ALL:
            _to_all(group, others, form, values)
        else:
            _by_parts(group, others, form, values)
        group[OUTCOME] = Outcome.DONE
    except _Failed as failed:
        group[OUTCOME], group[CULPRIT] = failed.outcome, failed.member
    group[COUNT] += 1


def _to_all(group: Group, links: Sequence[SealedLink], form: SyncForm, values: NDArray[np.float32]) -> None:
    own = encode(form, values)
    received = _swap(group, links, PART, len(values), lambda _member: own, lambda _member: len(own))
    values[:] = _sum(group, form, own, received)


def _by_parts(group: Group, links: Sequence[SealedLink], form: SyncForm, values: NDArray[np.float32]) -> None:
    of = parts(len(values), len(links) + 1)
    start, end = of[int(group[OWN])]
    received = _swap(
        group,
        links,
        PART,
        len(values),
        lambda member: encode(form, values[slice(*of[member])]),
        lambda _member: form.size(end - start),
    )
    total = _sum(group, form, encode(form, values[start:end]), received)
    exact = SyncForm.FLOAT32
    sums = _swap(
        group,
        links,
        SUM,
        len(values),
        lambda _member: encode(exact, total),
        lambda member: exact.size(of[member][1] - of[member][0]),
    )
    values[start:end] = total
    for member, encoded in sums.items():
        values[slice(*of[member])] = decode(exact, encoded)


def _sum(group: Group, form: SyncForm, own: bytes, received: Frames) -> NDArray[np.float32]:
    """In the order of the members, from zero, as the machine code does."""
    encoded = {**received, int(group[OWN]): own}
    total = np.zeros(len(decode(form, own)), np.float32)
    for member in sorted(encoded):
        total += decode(form, encoded[member])
    return total


def _swap(
    group: Group,
    links: Sequence[SealedLink],
    kind: int,
    values: int,
    give: Callable[[int], bytes],
    size: Callable[[int], int],
) -> dict[int, bytes]:
    """Send each member its bytes and open what it sends."""
    number = int(group[COUNT])
    sending = {}
    for link in links:
        plain = give(link.member)
        sending[link.member] = memoryview(link.sealed(plain, Context(kind, number, values)))
    group[SENT_BYTES] += sum(map(len, sending.values()))
    frames = _transfer(group, links, sending, {link.member: link.frame_bytes(size(link.member)) for link in links})
    group[RECEIVED_BYTES] += sum(map(len, frames.values()))
    received: dict[int, bytes] = {}
    for link in links:
        frame = frames[link.member]
        if link.frame_length(frame) != len(frame):
            raise _Failed(Outcome.OUT_OF_STEP, link.member)
        try:
            received[link.member] = link.opened(frame, Context(kind, number, values))
        except GroupBroken as error:
            raise _Failed(Outcome.FORGED, link.member) from error
    return received


def _transfer(
    group: Group, links: Sequence[SealedLink], sending: dict[int, memoryview], lengths: Mapping[int, int]
) -> dict[int, bytes]:
    """Both ways at once, so that no two members wait for one another's full buffers."""
    received = {link.member: bytearray() for link in links}
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for link in links:
            _watch(selector, link, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while selector.get_map():
            left_s = began + float(group[DEADLINE_NS]) * 1e-9 - time.monotonic()
            ready = selector.select(max(0.0, left_s))
            if not ready and left_s <= 0:
                raise _Failed(Outcome.SILENT, next(iter(selector.get_map().values())).data.member)
            for key, events in ready:
                _move(selector, key.data, events, sending, received, lengths)
    group[WAITED_NS] += int((time.monotonic() - began) * 1e9)
    return {member: bytes(frame) for member, frame in received.items()}


def _watch(selector: selectors.BaseSelector, link: SealedLink, events: int) -> None:
    try:
        link.socket.setblocking(False)
        selector.register(link.socket, events, link)
    except (OSError, ValueError) as error:  # closed by another thread
        raise _Failed(Outcome.GONE, link.member) from error


def _move(
    selector: selectors.BaseSelector,
    link: SealedLink,
    events: int,
    sending: dict[int, memoryview],
    received: dict[int, bytearray],
    lengths: Mapping[int, int],
) -> None:
    member = link.member
    try:
        if events & selectors.EVENT_WRITE and sending[member]:
            sending[member] = sending[member][link.socket.send(sending[member]) :]
        left = lengths[member] - len(received[member])
        if events & selectors.EVENT_READ and left:
            chunk = link.socket.recv(left)
            if not chunk:
                raise _Failed(Outcome.GONE, member)
            received[member] += chunk
    except (BlockingIOError, InterruptedError):
        return
    except OSError as error:
        raise _Failed(Outcome.GONE, member) from error
    wanted = (selectors.EVENT_WRITE if sending[member] else 0) | (
        selectors.EVENT_READ if len(received[member]) < lengths[member] else 0
    )
    if wanted:
        selector.modify(link.socket, wanted, link)
    else:
        selector.unregister(link.socket)
