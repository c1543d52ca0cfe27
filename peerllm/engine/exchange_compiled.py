"""The machine code of `exchange.Exchange`: imported only where numba is installed, on POSIX systems.

It runs within llama.cpp's decode call without Python: no objects, no GIL, only the addresses of `exchange_layout`.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false, reportPrivateImportUsage=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# (numba gives these functions other types than their annotations could)

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit, types

from peerllm.engine import exchange_layout as at
from peerllm.engine.exchange_layout import Outcome
from peerllm.engine.machine_words import (
    bits_of,
    call32,
    call64,
    float_of,
    floats_at,
    halves_at,
    integers_at,
    signed_at,
    words_at,
)

_DONE, _SILENT, _GONE = int(Outcome.DONE), int(Outcome.SILENT), int(Outcome.GONE)
_FORGED, _OUT_OF_STEP, _UNEVEN = int(Outcome.FORGED), int(Outcome.OUT_OF_STEP), int(Outcome.UNEVEN)
_FLOAT32, _FLOAT16 = 0, 1  # the order of SyncForm; 2 is Q80
_QUANTUM, _Q80_BYTES = 32, 34
_LARGEST = np.uint32(0x7F7FFFFF)  # bits of the largest float32: above are infinity and what is no number
_LEAST = np.uint32(0x0DA24260)  # bits of sync_form.LEAST_Q80
_READABLE, _WRITABLE = 1, 4  # POLLIN, POLLOUT


@njit
def _to_half(bits):
    """float32 to float16, both as bits, to nearest even. Source: F. Giesen, float_to_half_fast3_rtne."""
    size = bits & np.uint32(0x7FFFFFFF)
    odd = (size >> np.uint32(13)) & np.uint32(1)
    normal = (size + np.uint32(0xC8000FFF) + odd) >> np.uint32(13)
    small = bits_of(float_of(size) + np.float32(0.5)) - np.uint32(0x3F000000)
    great = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(0x7C00)
    half = great if size >= np.uint32(0x47800000) else (small if size < np.uint32(0x38800000) else normal)
    return np.uint16(half | ((bits >> np.uint32(16)) & np.uint32(0x8000)))


@njit
def _from_half(half):
    """float16 as bits to float32."""
    shifted = (np.uint32(half) & np.uint32(0x7FFF)) << np.uint32(13)
    normal = shifted + np.uint32(0x38000000)
    small = bits_of(float_of(normal + np.uint32(0x00800000)) - np.float32(6.103515625e-05))
    great = normal + np.uint32(0x38000000)
    size = great if shifted >= np.uint32(0x0F800000) else (small if shifted < np.uint32(0x00800000) else normal)
    return float_of(size | ((np.uint32(half) & np.uint32(0x8000)) << np.uint32(16)))


@njit
def _size(form, values):
    if form == _FLOAT32:
        return values * 4
    return values * 2 if form == _FLOAT16 else values // _QUANTUM * _Q80_BYTES


@njit
def _encode(form, source, values, target):
    """Round the values at `source` to the form; an address too."""
    integers = carray(integers_at(source), values)
    if form == _FLOAT16:
        halves = carray(halves_at(target), values)
        for index in range(values):
            halves[index] = _to_half(integers[index])
        return
    floats = carray(floats_at(source), values)
    for block in range(values // _QUANTUM):
        largest = np.uint32(0)
        for index in range(block * _QUANTUM, (block + 1) * _QUANTUM):
            largest = max(largest, integers[index] & np.uint32(0x7FFFFFFF))
        place = target + block * _Q80_BYTES
        carray(halves_at(place), 1)[0] = _to_half(bits_of(float_of(largest) / np.float32(127)))
        rounded = carray(signed_at(place + 2), _QUANTUM)
        usable = largest > _LEAST and largest <= _LARGEST
        inverse = np.float32(127) / float_of(largest) if usable else np.float32(0)
        for index in range(_QUANTUM):
            scaled = floats[block * _QUANTUM + index] * inverse if usable else np.float32(0)
            # adding 1.5 * 2^23 leaves the nearest whole number, halves to even, in the lowest bits
            rounded[index] = np.int8(bits_of(scaled + np.float32(12582912)) & np.uint32(0xFF))


@njit
def _add(form, source, values, target, first):
    """Add the encoded values to those at `target`, or put them there."""
    total = carray(floats_at(target), values)
    if first:
        for index in range(values):
            total[index] = np.float32(0)
    if form == _FLOAT32:
        floats = carray(floats_at(source), values)
        for index in range(values):
            total[index] += floats[index]
    elif form == _FLOAT16:
        halves = carray(halves_at(source), values)
        for index in range(values):
            total[index] += _from_half(halves[index])
    else:
        for block in range(values // _QUANTUM):
            place = source + block * _Q80_BYTES
            scale = _from_half(carray(halves_at(place), 1)[0])
            rounded = carray(signed_at(place + 2), _QUANTUM)
            for index in range(_QUANTUM):
                total[block * _QUANTUM + index] += np.float32(rounded[index]) * scale


@njit
def _copy(source, target, values):
    before, after = carray(floats_at(source), values), carray(floats_at(target), values)
    for index in range(values):
        after[index] = before[index]


@njit
def _now(group):
    call32(group[at.CLOCK], (group[at.CLOCK_ID], group[at.TIME]))
    time = carray(words_at(group[at.TIME]), 2)
    return time[0] * 1_000_000_000 + time[1]


@njit
def _would_block(group):
    """Was the last call's failure just that nothing moves at this moment?"""
    number = carray(integers_at(call64(group[at.ERRNO], ())), 1)[0]
    return number == group[at.WOULD_BLOCK] or number == group[at.INTERRUPTED]


@njit
def _seal(group, link, source, size):
    """Make the next frame for this member out of the bytes at `source`, and begin to send it."""
    link[at.OUT_BYTES], link[at.OUT_DONE] = at.HEADER_BYTES + size + group[at.TAG_BYTES], 0
    carray(integers_at(link[at.OUT]), 1)[0] = size + group[at.TAG_BYTES]
    target, context = link[at.OUT] + at.HEADER_BYTES, group[at.CONTEXT]
    arguments = (target, 0, source, size, context, at.CONTEXT_NUMBERS * 8, 0, link[at.SEND_NONCE], link[at.SEND_KEY])
    call32(group[at.SEAL], arguments)
    carray(words_at(link[at.SEND_NONCE]), 1)[0] += 1
    return _send(group, link)


@njit
def _expect(group, link, size):
    link[at.IN_BYTES], link[at.IN_DONE] = at.HEADER_BYTES + size + group[at.TAG_BYTES], 0


@njit
def _send(group, link):
    if link[at.OUT_DONE] == link[at.OUT_BYTES]:
        return _DONE
    left = link[at.OUT_BYTES] - link[at.OUT_DONE]
    moved = call64(group[at.SEND], (link[at.DESCRIPTOR], link[at.OUT] + link[at.OUT_DONE], left, group[at.SEND_FLAGS]))
    if moved < 0:
        return _DONE if _would_block(group) else _GONE
    link[at.OUT_DONE] += moved
    return _DONE


@njit
def _receive(group, link):
    if link[at.IN_DONE] == link[at.IN_BYTES]:
        return _DONE
    left = link[at.IN_BYTES] - link[at.IN_DONE]
    moved = call64(
        group[at.RECEIVE], (link[at.DESCRIPTOR], link[at.IN] + link[at.IN_DONE], left, group[at.RECEIVE_FLAGS])
    )
    if moved == 0:
        return _GONE
    if moved < 0:
        return _DONE if _would_block(group) else _GONE
    link[at.IN_DONE] += moved
    return _DONE


@njit
def _progress(group, links):
    """Send and receive what goes at once; how many members are not yet done, or minus the outcome."""
    open_members = 0
    for member in range(group[at.MEMBERS]):
        if member == group[at.OWN]:
            continue
        link = links[member]
        outcome = _send(group, link)
        if outcome == _DONE:
            outcome = _receive(group, link)
        if outcome != _DONE:
            group[at.CULPRIT] = member
            return -outcome
        if link[at.OUT_DONE] < link[at.OUT_BYTES] or link[at.IN_DONE] < link[at.IN_BYTES]:
            open_members += 1
            group[at.CULPRIT] = member
    return open_members


@njit
def _sleep(group, links, timeout_ns):
    """Until one of the open members has something, or takes something."""
    polled, count = carray(words_at(group[at.POLLED]), group[at.MEMBERS]), 0
    for member in range(group[at.MEMBERS]):
        if member == group[at.OWN]:
            continue
        link = links[member]
        events = 0
        if link[at.IN_DONE] < link[at.IN_BYTES]:
            events |= _READABLE
        if link[at.OUT_DONE] < link[at.OUT_BYTES]:
            events |= _WRITABLE
        if events:
            polled[count] = link[at.DESCRIPTOR] | (events << 32)  # struct pollfd
            count += 1
    call32(group[at.POLL], (group[at.POLLED], count, timeout_ns // 1_000_000 + 1))


@njit
def _transfer(group, links):
    """Until every frame is sent and every expected one is here: spin for a moment, then sleep in poll."""
    left = _progress(group, links)
    if left <= 0:
        return -left
    began = _now(group)
    waited = 0
    while left > 0:
        if waited >= group[at.DEADLINE_NS]:
            return _SILENT
        if waited >= group[at.SPIN_NOW_NS]:
            _sleep(group, links, group[at.DEADLINE_NS] - waited)
        left = _progress(group, links)
        waited = _now(group) - began
    # A wait that the longest spin would have covered is spun for next time: once asleep, always late. A longer one was
    # in vain, and a core that is wanted elsewhere is not kept from it.
    group[at.SPIN_NOW_NS] = group[at.SPIN_NS] if waited <= group[at.SPIN_NS] else group[at.SPIN_NOW_NS] // 2
    group[at.WAITED_NS] += waited
    return -left


@njit
def _unseal(group, links):
    """Open what every member has sent."""
    for member in range(group[at.MEMBERS]):
        if member == group[at.OWN]:
            continue
        link = links[member]
        group[at.SENT_BYTES] += link[at.OUT_BYTES]
        group[at.RECEIVED_BYTES] += link[at.IN_BYTES]
        group[at.CULPRIT] = member
        if carray(integers_at(link[at.IN]), 1)[0] != link[at.IN_BYTES] - at.HEADER_BYTES:
            return _OUT_OF_STEP
        source, size = link[at.IN] + at.HEADER_BYTES, link[at.IN_BYTES] - at.HEADER_BYTES
        context, context_bytes = group[at.CONTEXT], at.CONTEXT_NUMBERS * 8
        sealed = (link[at.PLAIN], 0, 0, source, size, context, context_bytes)
        keys = (link[at.RECEIVE_NONCE], link[at.RECEIVE_KEY])
        if call32(group[at.UNSEAL], sealed + keys) != 0:
            return _FORGED
        carray(words_at(link[at.RECEIVE_NONCE]), 1)[0] += 1
    return _DONE


@njit
def _context(group, kind, values):
    numbers = carray(words_at(group[at.CONTEXT]), at.CONTEXT_NUMBERS)
    numbers[0], numbers[1], numbers[2] = kind, group[at.COUNT], values


@njit
def _add_up(group, links, own, values, target):
    """The sum of all members' encoded values, in their order; `own` is where one's own lie."""
    for member in range(group[at.MEMBERS]):
        source = own if member == group[at.OWN] else links[member][at.PLAIN]
        _add(group[at.FORM], source, values, target, member == 0)


@njit
def _to_all(group, links, encoded, data, values):
    size = _size(group[at.FORM], values)
    _context(group, at.PART, values)
    for member in range(group[at.MEMBERS]):
        if member != group[at.OWN]:
            _expect(group, links[member], size)
            if _seal(group, links[member], encoded, size) != _DONE:
                group[at.CULPRIT] = member
                return _GONE
    outcome = _transfer(group, links)
    if outcome == _DONE:
        outcome = _unseal(group, links)
    if outcome == _DONE:
        _add_up(group, links, encoded, values, group[at.TOTAL])
        _copy(group[at.TOTAL], data, values)
    return outcome


@njit
def _start(group, values, member):
    """Where the part that this member adds up begins; see `sync_form.parts`."""
    quanta = (values + _QUANTUM - 1) // _QUANTUM
    return min(values, quanta * member // group[at.MEMBERS] * _QUANTUM)


@njit
def _by_parts(group, links, encoded, data, values):
    start, end = _start(group, values, group[at.OWN]), _start(group, values, group[at.OWN] + 1)
    size = _size(group[at.FORM], end - start)
    _context(group, at.PART, values)
    for member in range(group[at.MEMBERS]):
        if member != group[at.OWN]:
            _expect(group, links[member], size)
            first, last = _start(group, values, member), _start(group, values, member + 1)
            source = encoded + _size(group[at.FORM], first)
            if _seal(group, links[member], source, _size(group[at.FORM], last - first)) != _DONE:
                group[at.CULPRIT] = member
                return _GONE
    outcome = _transfer(group, links)
    if outcome == _DONE:
        outcome = _unseal(group, links)
    if outcome != _DONE:
        return outcome
    _add_up(group, links, encoded + _size(group[at.FORM], start), end - start, group[at.TOTAL])
    _copy(group[at.TOTAL], data + 4 * start, end - start)
    return _share_sums(group, links, data, values, end - start)


@njit
def _share_sums(group, links, data, values, own_values):
    """Give the others one's own part of the sum, and take theirs."""
    _context(group, at.SUM, values)
    for member in range(group[at.MEMBERS]):
        if member != group[at.OWN]:
            first, last = _start(group, values, member), _start(group, values, member + 1)
            _expect(group, links[member], 4 * (last - first))
            if _seal(group, links[member], group[at.TOTAL], 4 * own_values) != _DONE:
                group[at.CULPRIT] = member
                return _GONE
    outcome = _transfer(group, links)
    if outcome == _DONE:
        outcome = _unseal(group, links)
    if outcome == _DONE:
        for member in range(group[at.MEMBERS]):
            if member != group[at.OWN]:
                first, last = _start(group, values, member), _start(group, values, member + 1)
                _copy(links[member][at.PLAIN], data + 4 * first, last - first)
    return outcome


@njit
def _all_reduce(group, links, data, values):
    if group[at.FORM] > _FLOAT16 and values % _QUANTUM:
        return _UNEVEN
    encoded = data
    if group[at.FORM] != _FLOAT32:
        encoded = group[at.ENCODED]
        _encode(group[at.FORM], data, values, encoded)
    if values >= group[at.BY_PARTS_FROM]:
        return _by_parts(group, links, encoded, data, values)
    return _to_all(group, links, encoded, data, values)


@cfunc(types.int64(types.int64, types.int64, types.int64), cache=True)
def all_reduce(address, data, values):
    """Replace the float32 values at `data` by the group's sums; the `Outcome`."""
    group = carray(words_at(address), at.GROUP_FIELDS)
    links = carray(words_at(group[at.LINKS]), (group[at.MEMBERS], at.LINK_FIELDS))
    done = 0
    while done < values and group[at.OUTCOME] == _DONE:
        some = min(values - done, group[at.CAPACITY])
        group[at.OUTCOME] = _all_reduce(group, links, data + 4 * done, some)
        group[at.COUNT] += 1
        done += some
    return group[at.OUTCOME]
