"""A source that fails or hangs is asked less, and holds nobody up."""

from __future__ import annotations

import threading
import time

from peerllm.serving.readers.source import LIMIT_S, RARELY_S, TRIES, Apart, Source, Unreadable, here


class Counter:
    """Answers how often it was asked; raises what it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked


def look(source: Source[int], now_s: float) -> int | None:
    source.begin(now_s)
    return source.value(now_s)


def test_answer_is_kept_until_the_next_turn() -> None:
    counter, now_s = Counter(), time.monotonic()
    source = Source("counter", here(counter), every_s=5.0)
    assert [look(source, now_s + later_s) for later_s in (0, 1, 4.9, 5, 6)] == [1, 1, 1, 2, 2]
    source.hurry()
    assert look(source, now_s + 6) == 3


def test_failing_source_is_unknown_and_asked_rarely() -> None:
    counter, now_s = Counter(), time.monotonic()
    source = Source("counter", here(counter), every_s=1.0)
    assert look(source, now_s) == 1
    counter.error = Unreadable("unplugged")
    assert [look(source, now_s + second) for second in range(1, 20)] == [None] * 19
    assert counter.asked == 1 + TRIES
    assert source.why == "unplugged"
    source.hurry()  # a sign of life of something else does not bring it back
    assert look(source, now_s + 20) is None
    assert counter.asked == 1 + TRIES

    counter.error = None
    assert look(source, time.monotonic() + RARELY_S + 1) == counter.asked
    assert source.why == ""


def test_any_error_is_a_reason() -> None:
    counter = Counter()
    source = Source("counter", here(counter), every_s=0.0)
    for error, why in (
        (ValueError("bad"), "ValueError: bad"),
        (ModuleNotFoundError(name="Xlib"), "Xlib is not installed"),
    ):
        counter.error = error
        assert look(source, time.monotonic()) is None
        assert source.why == why


def test_hanging_source_keeps_its_answer_for_a_while() -> None:
    apart, go_on = Apart("test"), threading.Event()
    hang = False

    def ask() -> int:
        if hang:
            go_on.wait(LIMIT_S * 4)
        return 7

    source = Source("slow", apart.ask(ask), every_s=0.0, limit_s=0.2)
    source.begin(time.monotonic())
    assert source.value(time.monotonic() + LIMIT_S) == 7
    hang = True
    source.begin(time.monotonic())
    assert source.value(time.monotonic()) == 7
    time.sleep(0.3)
    assert source.value(time.monotonic()) is None
    assert source.why == "does not answer"
    go_on.set()
    assert source.value(time.monotonic() + LIMIT_S) == 7
    assert source.why == ""
    apart.close()


def test_close_runs_the_last_word_on_the_thread() -> None:
    apart, seen = Apart("test"), []
    apart.close(lambda: seen.append(threading.current_thread().name))
    assert seen == ["read test"]
