from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from peerllm.engine.load import load_span
from peerllm.engine.scheduler import STEPS_PER_SESSION, StepScheduler
from peerllm.engine.span_engine import Hidden, Rows, SpanEngine
from peerllm.errors import EngineError
from peerllm.model.store import ModelStore, StoredModel
from tests.support.gguf_models import tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


class Counted:
    """An engine that also remembers how many rows each step had."""

    def __init__(self, engine: SpanEngine) -> None:
        self.engine = engine
        self.info = engine.info
        self.steps: list[list[int]] = []
        self.open, self.rewind, self.close, self.shutdown = engine.open, engine.rewind, engine.close, engine.shutdown

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        self.steps.append([len(rows.hidden) for rows in batch])
        return self.engine.step(batch)


@asynccontextmanager
async def scheduler(model: StoredModel) -> AsyncIterator[tuple[StepScheduler, Counted]]:
    counted = Counted(load_span(model, model.spec.whole, engine="llama", slots=4, context_tokens=256, threads=1))
    scheduler = StepScheduler(counted)
    try:
        yield scheduler, counted
    finally:
        await scheduler.shutdown()


def rows(model: StoredModel, slot: int, position: int, count: int) -> Rows:
    hidden = np.random.default_rng(position).standard_normal((count, model.spec.hidden), dtype=np.float32)
    return Rows(slot, position, hidden, 0, model.spec.blocks)


def test_waiting_sessions_share_a_step_and_a_prefill_leaves_them_room(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, counted):
            slots = [await steps.open() for _ in range(3)]
            await asyncio.gather(*(steps.step(rows(model, slot, 0, 2)) for slot in slots[:2]))
            counted.steps.clear()
            together = [steps.step(rows(model, slots[2], 0, 200))]
            together += [steps.step(rows(model, slot, 2, 1)) for slot in slots[:2]]
            outputs = await asyncio.gather(*together)
            assert [len(hidden) for hidden, _ in outputs] == [200, 1, 1]
            assert sum(map(sum, counted.steps)) == 202
            assert any(len(batch) == 3 for batch in counted.steps)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_cancelled_waiter_leaves_the_slot_usable(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            slot = await steps.open()
            waiting = asyncio.create_task(steps.step(rows(model, slot, 0, 100)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting,))
            await steps.rewind(slot, 0)
            hidden, timing = await steps.step(rows(model, slot, 0, 3))
            assert hidden.shape == (3, model.spec.hidden)
            assert timing.compute_us > 0

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_bad_step_fails_its_session_and_not_the_engine(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            slot = await steps.open()
            with pytest.raises(EngineError):
                await steps.step(rows(model, slot, 7, 1))
            assert len((await steps.step(rows(model, slot, 0, 1)))[0]) == 1

    asyncio.run(asyncio.wait_for(main(), 20))


def test_one_sessions_bad_rows_do_not_fail_the_others_in_its_batch(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            bad, *good = [await steps.open() for _ in range(4)]
            wrong = steps.step(rows(model, bad, 9, 1))
            right = [steps.step(rows(model, slot, 0, 1)) for slot in good]
            outcome, *outputs = await asyncio.gather(wrong, *right, return_exceptions=True)
            assert isinstance(outcome, EngineError)
            assert not any(isinstance(output, BaseException) for output in outputs)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_steps_of_two_askers_share_the_room_of_a_step(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, counted):
            greedy = [await steps.open("greedy") for _ in range(3)]
            modest = await steps.open("modest")
            counted.steps.clear()
            occupied = steps.run(lambda: time.sleep(0.05))  # so that all of them wait
            long = [steps.step(rows(model, slot, 0, 240)) for slot in greedy]
            done: list[str] = []

            async def finish(step: Awaitable[object], name: str) -> None:
                await step
                done.append(name)

            waiting = [finish(step, "greedy") for step in long]
            waiting.append(finish(steps.step(rows(model, modest, 0, 240)), "modest"))
            await asyncio.gather(occupied, *waiting)
            assert counted.steps[0] == [240, 32, 240]
            assert "modest" in done[:2]
            assert sum(map(sum, counted.steps)) == 4 * 240

    asyncio.run(asyncio.wait_for(main(), 20))


def test_own_rows_go_into_each_step_first(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, counted):
            others = [await steps.open("greedy") for _ in range(3)]
            own = await steps.open("own", own=True)
            counted.steps.clear()
            occupied = steps.run(lambda: time.sleep(0.05))  # so that all of them wait
            waiting = [steps.step(rows(model, slot, 0, 240)) for slot in (*others, own)]
            await asyncio.gather(occupied, *waiting)
            assert counted.steps[0] == [240, 32, 240]  # 240 of its own, 272 of theirs

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_engines_time_is_shared_out_among_the_sessions_of_a_step(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, counted):
            slots = [await steps.open() for _ in range(2)]
            occupied = asyncio.ensure_future(steps.run(lambda: time.sleep(0.05)))  # so that both wait
            await asyncio.sleep(0)
            waiting = [steps.step(rows(model, slot, 0, count)) for slot, count in zip(slots, (60, 20), strict=True)]
            (_, large), (_, small) = await asyncio.gather(*waiting)
            await occupied
            assert counted.steps == [[60, 20]]
            assert abs(large.busy_us - 3 * small.busy_us) <= 3
            assert large.busy_us + small.busy_us <= large.compute_us

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_late_step_of_an_ended_session_does_not_reach_the_next_one(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            ended = await steps.open()
            await steps.close(ended)
            following = await steps.open()
            with pytest.raises(EngineError, match="is not open"):
                await steps.step(rows(model, ended, 0, 1))
            assert len((await steps.step(rows(model, following, 0, 1)))[0]) == 1

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_session_holds_what_it_was_opened_for_and_waits_with_few_steps(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            slot = await steps.open("somebody", 40)
            with pytest.raises(EngineError, match="opened for 40 tokens"):
                await steps.step(rows(model, slot, 0, 41))
            flood = [steps.step(rows(model, slot, position, 1)) for position in range(STEPS_PER_SESSION + 3)]
            outcomes = await asyncio.gather(*flood, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
            assert len(refused) == 3
            assert all("wait already" in str(error) for error in refused)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_an_opening_that_is_given_up_takes_no_slot(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            for turn in range(12):
                opening = asyncio.create_task(steps.open())
                for _ in range(turn % 4):
                    await asyncio.sleep(0)
                opening.cancel()
                outcome = (await asyncio.gather(opening, return_exceptions=True))[0]
                if not isinstance(outcome, BaseException):
                    await steps.close(outcome)
                for _ in range(3):  # the thread opens, and hears that it was in vain
                    await steps.run(lambda: None)
            assert len({await steps.open() for _ in range(4)}) == 4

    asyncio.run(asyncio.wait_for(main(), 20))


def test_after_shutdown_nothing_is_taken(model: StoredModel) -> None:
    async def main() -> None:
        async with scheduler(model) as (steps, _):
            await steps.shutdown()
            with pytest.raises(EngineError, match="unloaded"):
                await steps.open()

    asyncio.run(asyncio.wait_for(main(), 20))
