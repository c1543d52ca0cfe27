"""The owner's cap on threads is obeyed from one step to the next, by measured and by fixed numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from peerllm.engine.load import load_span
from peerllm.engine.span_engine import Rows
from peerllm.engine.thread_cap import ThreadCap
from peerllm.engine.threads import StepThreads, ThreadTuner
from peerllm.model.store import ModelStore
from tests.support.gguf_models import tiny_gguf


def test_no_cap_allows_all_and_a_cap_at_least_one() -> None:
    cap = ThreadCap()
    assert cap.limit(8) == 8
    cap.threads = 3
    assert (cap.limit(8), cap.limit(2)) == (3, 2)
    cap.threads = 1
    assert cap.limit(0) == 1


def test_fixed_number_is_capped_at_the_next_step_and_comes_back() -> None:
    cap = ThreadCap()
    threads = StepThreads(4, cap)
    assert threads.threads(1) == 4
    cap.threads = 1
    assert threads.threads(1) == 1
    cap.threads = 0
    assert threads.threads(1) == 4


def quiet_machine(tuner: ThreadTuner, start_s: float, seconds: float) -> float:
    """Steps whose work all threads share, until so much later."""
    now_s = start_s
    while now_s < start_s + seconds:
        step_s = 0.02 / tuner.threads(1)
        now_s += step_s
        tuner.observe_step(1, step_s, now_s)
    return now_s


def test_measured_number_falls_at_once_and_is_not_forgotten() -> None:
    tuner = ThreadTuner(8)
    now_s = quiet_machine(tuner, 0.0, 10.0)
    assert tuner.threads(1) == 8
    for cap in (2, 1, 6):
        tuner.cap = cap
        assert tuner.threads(1) == cap
        now_s = quiet_machine(tuner, now_s, 30.0)
        assert tuner.threads(1) == cap
    tuner.cap = 0
    assert tuner.threads(1) == 8


def test_no_number_above_the_cap_is_tried() -> None:
    tuner = ThreadTuner(8)
    tuner.cap = 3
    now_s = quiet_machine(tuner, 0.0, 60.0)
    assert tuner.threads(1) == 3
    tuner.cap = 0
    assert tuner.threads(1) == 3
    quiet_machine(tuner, now_s, 10.0)
    assert tuner.threads(1) == 8


def test_core_that_is_lost_under_a_cap_is_noticed() -> None:
    tuner = ThreadTuner(8)
    now_s = quiet_machine(tuner, 0.0, 10.0)
    tuner.cap = 4
    now_s = quiet_machine(tuner, now_s, 5.0)
    tuner.observe_step(1, 0.2, now_s + 0.2)
    assert tuner.threads(1) == 2


def test_cap_and_other_programs_both_count() -> None:
    tuner = ThreadTuner(8)
    now_s = quiet_machine(tuner, 0.0, 10.0)
    tuner.cap = 6
    tuner.observe_load(5.0, now_s)
    assert tuner.threads(1) == 3
    now_s = quiet_machine(tuner, now_s, 60.0)
    tuner.observe_load(0.0, now_s)
    quiet_machine(tuner, now_s, 120.0)
    assert tuner.threads(1) == 6


def test_loaded_engine_steps_with_what_the_cap_says_then(tmp_path: Path) -> None:
    model = ModelStore(tmp_path / "store").open(str(tiny_gguf(tmp_path)))
    whole, cap, before = model.spec.whole, ThreadCap(2), torch.get_num_threads()
    engine = load_span(model, whole, engine="torch", slots=1, context_tokens=64, threads=4, cap=cap)
    slot, used = engine.open(), []
    rows = np.full((1, model.spec.hidden), 0.05, np.float32)
    try:
        for position, allowed in enumerate((2, 1, 0, 3)):
            cap.threads = allowed
            engine.step([Rows(slot, position, rows, whole.start, whole.end)])
            used.append(torch.get_num_threads())
    finally:
        engine.shutdown()
        torch.set_num_threads(before)
    assert used == [2, 1, 4, 3]
