"""A group as one engine: the sessions of any `SpanEngine`, and the end of all when one member is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from peerllm.engine.exchange import Exchange
from peerllm.engine.group_commands import Close, Command, Dissolve, Fork, Open, Rewind, Step, decode, encode, most_bytes
from peerllm.engine.group_span import GroupSpan, follow
from peerllm.engine.slice_engine import SliceEngine
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.errors import BadRows, EngineError, GroupBroken, NoSlot
from peerllm.model.store import ModelStore, StoredModel
from peerllm_swarm.group_traffic import SyncForm
from tests.support.gguf_models import TINY, tiny_gguf
from tests.support.groups import LocalGroup, at_once, exchanges, local_group

SHAPE = replace(TINY, heads=8, kv_heads=4, head_dim=16, hidden=128, feed_forward=256)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("groups")
    return ModelStore(folder / "store", offline=True).open(str(tiny_gguf(folder, SHAPE)))


@pytest.mark.parametrize("form", SyncForm)
def test_sessions_compute_together_what_each_computes_alone(form: SyncForm, model: StoredModel) -> None:
    """Prompts in any pieces, beside answers, rewound and taken up again."""
    prompts = [random_rows(90, 1), random_rows(7, 2), random_rows(60, 3)]
    with local_group(model, (2, 1, 1), form=form, slots=3) as group:
        expected = [alone(group.lead, prompt) for prompt in prompts]
        slots = [group.lead.open() for _ in prompts]
        for start, end in ((0, 1), (1, 7), (7, 60), (60, 90)):
            batch = [
                Rows(slot, start, prompt[start:end], 0, 6)
                for slot, prompt in zip(slots, prompts, strict=True)
                if start < len(prompt)
            ]
            for rows, found in zip(batch, group.lead.step(batch), strict=True):
                np.testing.assert_array_equal(found, expected[slots.index(rows.slot)][start:end])
        group.lead.rewind(slots[0], 20)
        [again] = group.lead.step([Rows(slots[0], 20, prompts[0][20:], 0, 6)])
        np.testing.assert_array_equal(again, expected[0][20:])
    assert group.ended == {1: None, 2: None}


def test_long_session_is_the_same_whatever_threads_the_members_have(model: StoredModel) -> None:
    """Beyond 256 cells llama.cpp adds up a lone row's attention in another order on several threads."""
    rows = random_rows(300)
    with local_group(model, (1, 1), context_tokens=400, slots=1, threads=(2, 1)) as group:
        whole = alone(group.lead, rows)
        slot = group.lead.open()
        group.lead.step([Rows(slot, 0, rows[:270], 0, 6)])
        for position in range(270, 300):
            [found] = group.lead.step([Rows(slot, position, rows[position : position + 1], 0, 6)])
            np.testing.assert_array_equal(found[0], whole[position])


def test_copied_session_goes_on_like_the_first(model: StoredModel) -> None:
    rows = random_rows(40)
    with local_group(model, (1, 1)) as group:
        first, second = group.lead.open(), group.lead.open()
        [expected] = group.lead.step([Rows(first, 0, rows, 0, 6)])
        group.lead.fork(first, 30, second)
        [found] = group.lead.step([Rows(second, 30, rows[30:], 0, 6)])
        np.testing.assert_array_equal(found, expected[30:])


def test_session_leaves_before_the_spans_end(model: StoredModel) -> None:
    rows = random_rows(10)
    with local_group(model, (1, 1)) as group:
        first, second = group.lead.open(), group.lead.open()
        early, late = group.lead.step([Rows(first, 0, rows, 0, 3), Rows(second, 0, rows, 0, 6)])
        assert not np.array_equal(early, late)
        group.lead.close(first)
        again = group.lead.open()
        np.testing.assert_array_equal(group.lead.step([Rows(again, 0, rows, 0, 3)])[0], early)


def test_refused_rows_leave_the_group_whole(model: StoredModel) -> None:
    with local_group(model, (1, 1), slots=1) as group:
        slot = group.lead.open()
        with pytest.raises(NoSlot):
            group.lead.open()
        with pytest.raises(BadRows):
            group.lead.step([Rows(slot, 0, np.zeros((1, 3), np.float32), 0, 6)])
        with pytest.raises(EngineError, match="at its start"):
            group.lead.step([Rows(slot, 0, random_rows(1), 2, 6)])
        with pytest.raises(EngineError):
            group.lead.rewind(slot, 5)
        group.lead.check()
        assert group.lead.step([Rows(slot, 0, random_rows(1), 0, 6)])[0].shape == (1, SHAPE.hidden)


def test_lost_member_ends_the_group_for_all(model: StoredModel) -> None:
    with local_group(model, (1, 1, 1)) as group:
        slot = group.lead.open()
        group.lead.step([Rows(slot, 0, random_rows(5), 0, 6)])
        group.exchanges[2].shut()
        assert_all_end(group, slot)


def test_member_whose_slice_fails_ends_the_group_for_all(model: StoredModel) -> None:
    def failing(index: int, engine: SliceEngine) -> SliceEngine:
        return Failing(engine) if index == 2 else engine

    with local_group(model, (1, 1, 1), as_member=failing) as group:
        slot = group.lead.open()
        group.lead.step([Rows(slot, 0, random_rows(5), 0, 6)])
        assert_all_end(group, slot)
        assert "fails on purpose" in str(group.ended[2])


def test_member_that_left_an_idle_group_is_noticed(model: StoredModel) -> None:
    with local_group(model, (1, 1)) as group:
        group.lead.check()
        group.exchanges[1].shut()
        group.wait()
        with pytest.raises(GroupBroken, match="member 1"):
            group.lead.check()


def test_abandoned_group_ends_from_another_thread(model: StoredModel) -> None:
    with local_group(model, (1, 1)) as group:
        threading.Thread(target=group.lead.abandon).start()
        group.wait()
        assert isinstance(group.ended[1], GroupBroken)
        with pytest.raises(GroupBroken):
            group.lead.open()


def test_members_that_hold_different_things_do_not_assemble(model: StoredModel) -> None:
    with (
        local_group(model, (1, 1), slots=2) as one,
        local_group(model, (1, 1), slots=3) as other,
        exchanges(2, values=32) as (lead, member),
    ):
        outcomes = at_once(
            lambda: GroupSpan.assemble(one.members[0], lead, SHAPE.hidden),
            lambda: follow(other.members[1], member, SHAPE.hidden),
        )
    assert all(isinstance(outcome, GroupBroken) and "slots" in str(outcome) for outcome in outcomes)


COMMANDS: tuple[Command, ...] = (Open(3), Rewind(1, 20), Fork(1, 20, 2), Close(7), Dissolve())


@pytest.mark.parametrize("command", COMMANDS, ids=repr)
def test_command_is_read_as_it_was_written(command: Command) -> None:
    assert decode(encode(command), 128) == command


def test_step_is_read_as_it_was_written() -> None:
    batch = [Rows(0, 5, random_rows(3), 0, 6), Rows(2, 0, random_rows(1, 9), 0, 4)]
    encoded = encode(Step(batch))
    assert len(encoded) <= most_bytes(2, 3, SHAPE.hidden)
    command = decode(encoded, SHAPE.hidden)
    assert isinstance(command, Step)
    for before, after in zip(batch, command.batch, strict=True):
        assert (before.slot, before.position, before.enter, before.exit) == (
            after.slot,
            after.position,
            after.enter,
            after.exit,
        )
        np.testing.assert_array_equal(before.hidden, after.hidden)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:15],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: np.array([99, 0], "<i8").tobytes(),
        lambda whole: np.array([-1, 0], "<i8").tobytes(),
        lambda whole: np.array([5, -1], "<i8").tobytes(),
        lambda whole: np.array([5, 1 << 60], "<i8").tobytes(),
        lambda whole: np.array([5, 5, 0, 0, -4, 0, 6], "<i8").tobytes(),
        lambda whole: np.array([1, 1, 0], "<i8").tobytes(),
    ],
)
def test_what_is_no_command_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(GroupBroken):
        decode(damage(encode(Step([Rows(0, 0, random_rows(2), 0, 6)]))), SHAPE.hidden)


def decode_on(engine: GroupSpan, slot: int, start: int) -> None:
    for position in range(start, start + 5):
        engine.step([Rows(slot, position, random_rows(1), 0, 6)])


def assert_all_end(group: LocalGroup, slot: int) -> None:
    with pytest.raises(GroupBroken):
        decode_on(group.lead, slot, 5)
    with pytest.raises(GroupBroken, match="no more"):
        group.lead.open()
    group.lead.close(slot)  # a session may be closed behind it
    group.wait()
    assert all(isinstance(group.ended[member], GroupBroken) for member in (1, 2))


class Failing:
    """A slice whose second step fails before it computes."""

    def __init__(self, engine: SliceEngine) -> None:
        self._engine = engine
        self._steps = 0

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def join(self, exchange: Exchange) -> None:
        self._engine.join(exchange)

    def open(self) -> int:
        return self._engine.open()

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        self._steps += 1
        if self._steps == 2:
            raise EngineError("fails on purpose")
        return self._engine.step(batch)

    def fork(self, source: int, to: int, into: int) -> None:
        self._engine.fork(source, to, into)

    def rewind(self, slot: int, to: int) -> None:
        self._engine.rewind(slot, to)

    def close(self, slot: int) -> None:
        self._engine.close(slot)

    def shutdown(self) -> None:
        self._engine.shutdown()


def alone(engine: GroupSpan, hidden: Hidden) -> Hidden:
    slot = engine.open()
    [output] = engine.step([Rows(slot, 0, hidden, 0, engine.info.span.end)])
    engine.close(slot)
    return output


def random_rows(count: int, seed: int = 0) -> Hidden:
    return np.random.default_rng(seed).standard_normal((count, SHAPE.hidden), np.float32)
