"""Threads that serve others are in the lowest class, their helpers too, and nothing else of the process is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from peerllm.engine.courtesy import lower_this_thread, on_thread
from peerllm.engine.load import load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import Rows
from peerllm.model.store import ModelStore, StoredModel
from tests.support.gguf_models import tiny_gguf

linux = pytest.mark.skipif(sys.platform != "linux", reason="classes of single threads are read from Linux")

IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}
IO_IDLE = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


def all_threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def is_lowest(thread: int) -> bool:
    if os.sched_getscheduler(thread) != os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, thread) != 19:
        return False
    number = IOPRIO_GET.get(platform.machine())
    return number is None or ctypes.CDLL(None).syscall(number, 1, thread) >> 13 == IO_IDLE


@linux
def test_a_lowered_thread_and_its_children_are_lowest_and_its_parent_is_not() -> None:
    seen: dict[str, bool] = {}

    def child() -> None:
        seen["child"] = is_lowest(threading.get_native_id())

    def lowered() -> None:
        seen["changed"] = set(lower_this_thread()) == {"nice", "cpu", "io"}
        seen["itself"] = is_lowest(threading.get_native_id())
        started = threading.Thread(target=child)
        started.start()
        started.join()

    thread = threading.Thread(target=lowered)
    thread.start()
    thread.join()
    assert seen == {"changed": True, "itself": True, "child": True}
    assert not is_lowest(threading.get_native_id())


@linux
def test_again_is_allowed() -> None:
    async def main() -> None:
        assert await on_thread(lambda: lower_this_thread() == lower_this_thread(), polite=True)

    asyncio.run(asyncio.wait_for(main(), 20))


@linux
@pytest.mark.parametrize("polite", [True, False])
def test_work_on_a_thread_is_as_polite_as_asked_and_brings_its_result_or_error(polite: bool) -> None:
    def fail() -> None:
        raise KeyError("why")

    async def main() -> None:
        assert await on_thread(lambda: is_lowest(threading.get_native_id()), polite=polite) is polite
        with pytest.raises(KeyError, match="why"):
            await on_thread(fail, polite=polite)

    asyncio.run(asyncio.wait_for(main(), 20))


@linux
@pytest.mark.parametrize("engine", ["llama", "torch"])
@pytest.mark.parametrize("polite", [True, False])
def test_every_thread_of_a_polite_engine_is_lowest(model: StoredModel, engine: str, polite: bool) -> None:
    """Loaded on a thread of its own and stepped by the scheduler's, as in the daemon; two threads, so with helpers."""

    async def main() -> None:
        whole, before = model.spec.whole, all_threads()
        loaded = await on_thread(
            lambda: load_span(model, whole, engine=engine, slots=1, context_tokens=256, threads=2), polite=polite
        )
        scheduler = StepScheduler(loaded, polite=polite)
        try:
            slot = await scheduler.open()
            rows = np.full((128, model.spec.hidden), 0.05, np.float32)
            await scheduler.step(Rows(slot, 0, rows, whole.start, whole.end))
            new = all_threads() - before
            assert len(new) >= 2
            assert {is_lowest(thread) for thread in new} == {polite}
        finally:
            await scheduler.shutdown()

    asyncio.run(asyncio.wait_for(main(), 60))
