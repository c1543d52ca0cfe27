"""The all-reduce of a group: equal sums on all members, in machine code and in Python, and an end to it in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from peerllm.engine import sync_form
from peerllm.engine.exchange import Exchange
from peerllm.engine.exchange_layout import PART
from peerllm.engine.sealed_link import Cipher, Context, SealedLink
from peerllm.errors import GroupBroken
from peerllm_swarm.group_traffic import SyncForm, Way, exchange_bytes
from tests.support.groups import at_once, connected, exchanges

Values = NDArray[np.float32]

WAYS = {"machine code": (True,) * 5, "python": (False,) * 5, "mixed": (True, False, True, False, True)}
SEALED_BYTES = 4 + 32  # a frame's header and AEGIS-256's tag


@pytest.mark.parametrize("compiled", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("form", SyncForm)
@pytest.mark.parametrize("members", [2, 3, 5])
def test_every_member_holds_the_sum_in_the_members_order(
    members: int, form: SyncForm, compiled: Sequence[bool]
) -> None:
    for values in (32, 2048, 48 * 576):  # the last goes by parts where that is cheaper
        given = [noise(values, member) for member in range(members)]
        expected = np.zeros(values, np.float32)
        for one in given:
            expected += sync_form.decode(form, sync_form.encode(form, one))
        for found in summed(given, form, compiled[:members]):
            np.testing.assert_array_equal(found, expected)


def test_sums_do_not_depend_on_how_many_are_made_at_once() -> None:
    """By parts or to all, whichever is chosen for the size: a prompt in one piece is what it is in two."""
    for form in SyncForm:
        given = [noise(96 * 576, member) for member in range(5)]
        assert sync_form.way_of(len(given[0]), 5, form) is Way.BY_PARTS
        assert sync_form.way_of(576, 5, form) is Way.ALL_TO_ALL
        [whole, *_] = summed(given, form)
        rows = [summed([one[start : start + 576] for one in given], form)[0] for start in (0, 576)]
        np.testing.assert_array_equal(whole[: 2 * 576], np.concatenate(rows))


def test_halves_are_rounded_as_numpy_rounds_them() -> None:
    """Every float16, what lies between two of them, and what is no number."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = halves[np.isfinite(halves)]
    between = np.concatenate([np.nextafter(finite, np.float32(0)), finite * np.float32(1.0004883)])
    values = padded(np.concatenate([halves, between, np.float32([1e-8, 65519, 65520, 1e9, 3e38])]))
    [found, _] = summed([values, np.zeros_like(values)], SyncForm.FLOAT16)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("compiled", [True, False])
def test_q80_keeps_zeros_and_leaves_no_number_where_there_was_none(compiled: bool) -> None:
    values = np.zeros(128, np.float32)
    values[32:64], values[70], values[100] = 1e-38, np.nan, np.inf
    [found, _] = summed([values, np.zeros_like(values)], SyncForm.Q80, [compiled] * 2)
    assert not found[:64].any()
    assert not np.isfinite(found[70])
    assert not np.isfinite(found[100])


@pytest.mark.parametrize("form", SyncForm)
def test_bytes_are_those_of_the_formula(form: SyncForm) -> None:
    with exchanges(3, form, values=576) as members:
        at_once(*[partial(member.all_reduce, noise(576, member.own)) for member in members])
        for member in members:
            assert member.traffic.exchanges == 1
            assert member.traffic.sent_bytes == member.traffic.received_bytes
            assert 3 * (member.traffic.sent_bytes - 2 * SEALED_BYTES) == exchange_bytes(576, 3, form)


@pytest.mark.parametrize("members", range(2, 9))
@pytest.mark.parametrize("form", SyncForm)
def test_parts_are_chosen_only_where_they_send_less(form: SyncForm, members: int) -> None:
    for values in (32, 576, 48 * 576, 48 * 4096):
        to_all = (members - 1) * form.size(values)
        assert sync_form.sent_bytes(values, members, form) <= to_all
        if to_all < sync_form.LARGE_BYTES:
            assert sync_form.way_of(values, members, form) is Way.ALL_TO_ALL
        parts = sync_form.parts(values, members)
        assert [start for start, _ in parts[1:]] == [end for _, end in parts[:-1]]
        assert (parts[0][0], parts[-1][1]) == (0, values)


@pytest.mark.parametrize("compiled", [(True, False), (False, True)], ids=["python second", "python first"])
def test_more_values_than_agreed_go_in_several_exchanges(compiled: Sequence[bool]) -> None:
    given = [noise(1000, member) for member in range(2)]
    [found, _] = summed(given, SyncForm.FLOAT32, compiled, room=320)
    np.testing.assert_array_equal(found, given[0] + given[1])


@pytest.mark.parametrize("compiled", [True, False])
def test_values_that_q80_cannot_hold_are_refused(compiled: bool) -> None:
    with exchanges(2, SyncForm.Q80, values=64, compiled=[compiled] * 2) as members:
        outcomes = at_once(*[partial(member.all_reduce, noise(33, 0)) for member in members])
    assert all("quanta" in str(outcome) for outcome in outcomes)


def test_other_cipher_gives_the_same_sums() -> None:
    given = [noise(2048, member) for member in range(3)]
    outcomes = [summed(given, SyncForm.Q80, (True, False, True), cipher=cipher) for cipher in Cipher]
    np.testing.assert_array_equal(outcomes[0], outcomes[1])


@pytest.mark.parametrize("compiled", [True, False])
def test_member_that_is_gone_is_named(compiled: bool) -> None:
    with exchanges(3, values=64, compiled=[compiled] * 3) as members:
        members[2].close()
        outcomes = at_once(*[partial(member.all_reduce, noise(64, 0)) for member in members[:2]])
    assert [str(one) for one in outcomes] == ["member 2 of the group is gone"] * 2


@pytest.mark.parametrize("compiled", [True, False])
def test_silent_member_is_noticed_within_the_deadline(compiled: bool) -> None:
    with exchanges(2, values=64, compiled=[compiled] * 2, deadline_s=0.2) as members:
        started = time.monotonic()
        with pytest.raises(GroupBroken, match=r"member 1 of the group was silent for longer than 0\.2 s"):
            members[0].all_reduce(noise(64, 0))
        assert time.monotonic() - started < 10
        with pytest.raises(GroupBroken, match="silent"):
            members[0].all_reduce(noise(64, 0))  # and that is the end


@pytest.mark.parametrize("compiled", [True, False])
def test_forged_frame_is_refused(compiled: bool) -> None:
    rows = connected(2)
    ours, theirs = rows[0][1], rows[1][0]
    assert ours is not None
    assert theirs is not None
    exchange = Exchange(rows[0], 0, SyncForm.FLOAT32, values=64, use_compiled=compiled)
    theirs.socket.sendall((64 * 4 + 32).to_bytes(4, "little") + bytes(64 * 4 + 32))
    with pytest.raises(GroupBroken, match="does not open"):
        exchange.all_reduce(noise(64, 0))
    exchange.close()
    theirs.socket.close()


@pytest.mark.parametrize("compiled", [True, False])
def test_frame_of_another_length_is_refused(compiled: bool) -> None:
    rows = connected(2)
    theirs = rows[1][0]
    assert theirs is not None
    exchange = Exchange(rows[0], 0, SyncForm.FLOAT32, values=64, use_compiled=compiled)
    theirs.socket.sendall((1 << 31).to_bytes(4, "little") + bytes(1 << 10))
    with pytest.raises(GroupBroken, match="another length"):
        exchange.all_reduce(noise(64, 0))
    exchange.close()
    theirs.socket.close()


def test_replayed_frame_does_not_open() -> None:
    """The same bytes a second time meet another counter and another context."""
    rows = connected(2)
    theirs = rows[1][0]
    assert theirs is not None
    exchange = Exchange(rows[0], 0, SyncForm.FLOAT32, values=64)
    frame = SealedLink(theirs, 0, Cipher.AEGIS256).sealed(noise(64, 1).tobytes(), Context(PART, 0, 64))
    theirs.socket.sendall(frame)
    exchange.all_reduce(noise(64, 0))
    theirs.socket.sendall(frame)
    with pytest.raises(GroupBroken, match="does not open"):
        exchange.all_reduce(noise(64, 0))
    exchange.close()
    theirs.socket.close()


def test_members_out_of_step_are_noticed() -> None:
    with exchanges(2, values=64) as members:
        members[0].send(1, b"a command where a sum is due, as long as one" + bytes(64 * 4 - 44))
        [outcome] = at_once(lambda: members[1].all_reduce(noise(64, 1)))
    assert isinstance(outcome, GroupBroken)


@pytest.mark.parametrize("compiled", [True, False])
def test_shutting_from_another_thread_ends_a_wait(compiled: bool) -> None:
    with exchanges(2, values=64, compiled=[compiled] * 2) as members:
        threading.Timer(0.1, members[0].shut).start()
        with pytest.raises(GroupBroken, match="gone"):
            members[0].all_reduce(noise(64, 0))


def test_commands_go_between_sums_in_order() -> None:
    with exchanges(2, values=64, compiled=(True, False)) as members:
        for text in (b"one", b"two" * 5000):
            [received, _] = at_once(
                lambda: members[1].receive(0, most_bytes=20_000, timeout_s=20), partial(members[0].send, 1, text)
            )
            assert received == text
            at_once(*[partial(member.all_reduce, noise(64, 0)) for member in members])
        members[0].check_idle()
        members[1].close()
        with pytest.raises(GroupBroken, match="member 1 is gone"):
            members[0].check_idle()


def test_command_longer_than_allowed_is_refused() -> None:
    with exchanges(2, values=64) as members:
        members[0].send(1, bytes(1000))
        with pytest.raises(GroupBroken, match="announces a frame"):
            members[1].receive(0, most_bytes=999, timeout_s=20)


@pytest.mark.parametrize(("members", "own"), [(1, 0), (9, 0), (3, 1)])
def test_group_needs_a_channel_to_each_of_2_to_8(members: int, own: int) -> None:
    with pytest.raises(GroupBroken):
        Exchange([None] * members, own, SyncForm.FLOAT32, values=64)


def summed(
    given: Sequence[Values],
    form: SyncForm,
    compiled: Sequence[bool] | None = None,
    *,
    room: int | None = None,
    cipher: Cipher = Cipher.AEGIS256,
) -> list[Values]:
    """What every member has after one sum."""
    own = [one.copy() for one in given]
    with exchanges(len(given), form, values=room or len(own[0]), compiled=compiled, cipher=cipher) as members:
        outcomes = at_once(*[partial(member.all_reduce, own[member.own]) for member in members])
    assert outcomes == [None] * len(given)
    return own


def noise(values: int, seed: int) -> Values:
    return np.random.default_rng(seed).standard_normal(values, np.float32) * np.float32(1 + seed)


def padded(values: Values) -> Values:
    return np.concatenate([values, np.zeros(-len(values) % sync_form.QUANTUM, np.float32)])
