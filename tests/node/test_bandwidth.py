"""Limits of the line: right on average, bounded at once, small messages first, and changed while others wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from peerllm.wire.bandwidth import (
    BURST_S,
    LEAST_BYTES_PER_S,
    SMALL_BYTES,
    SMALL_SHARE,
    Bandwidth,
    Lanes,
    Throttle,
    TokenBucket,
)
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Rewind, Step
from tests.support.streams import FAR, FAST, NEAR, raw_pair, run, step

RATE = 1_000_000
LARGE = 256 << 10


def passed(lanes: Lanes | TokenBucket, sizes: Sequence[int], seconds: float) -> list[tuple[float, int]]:
    """Senders that each send messages of one size whenever they may, in turns, in virtual time."""
    now, log = 0.0, []
    while now < seconds:
        waits_s = []
        for size in sizes:
            wait_s = lanes.wait_s(now) if isinstance(lanes, TokenBucket) else lanes.wait_s(size, now)
            if wait_s:
                waits_s.append(wait_s)
            else:
                lanes.take(size, now)
                log.append((now, size))
        if len(waits_s) == len(sizes):
            now += min(waits_s)
    return log


@pytest.mark.parametrize("size", [5_000, 70_000, 1 << 20])
def test_bucket_keeps_its_rate_and_its_bursts_are_bounded(size: int) -> None:
    log = passed(TokenBucket(RATE, 0.0), [size], 60.0)
    assert sum(size for _, size in log) == pytest.approx(60 * RATE, rel=0.03)
    at_once = sum(size for at, size in log if at == 0.0)
    assert at_once <= BURST_S * RATE + size
    for start in range(59):
        within = sum(size for at, size in log if start <= at < start + 1)
        assert within <= RATE * (1 + BURST_S) + 2 * size


def test_bucket_holds_no_more_than_a_burst_after_a_long_rest_and_bears_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(RATE, 0.0)
    bucket.take(2 * RATE, 3600.0)
    assert bucket.wait_s(3600.0) == pytest.approx(2 - BURST_S)
    assert bucket.wait_s(3599.0) == pytest.approx(2 - BURST_S)


def test_small_messages_do_not_wait_behind_large_ones_and_leave_them_a_part() -> None:
    lanes = Lanes(RATE, 0.0)
    log = passed(lanes, [SMALL_BYTES, LARGE], 100.0)
    small = sum(size for _, size in log if size == SMALL_BYTES)
    large = sum(size for _, size in log if size == LARGE)
    assert small + large == pytest.approx(100 * RATE, rel=0.03)
    assert small == pytest.approx(SMALL_SHARE * 100 * RATE, rel=0.03)


def test_a_step_passes_at_once_while_prompts_have_overdrawn_the_line() -> None:
    lanes = Lanes(RATE, 0.0)
    lanes.take(10 * RATE, 0.0)
    assert lanes.wait_s(LARGE, 0.0) > 9
    assert lanes.wait_s(4096, 0.0) == 0


def test_without_a_limit_nothing_waits_and_too_low_a_limit_is_the_least() -> None:
    async def main() -> None:
        throttle = Throttle()
        await throttle.turn(1 << 40)
        assert throttle.pause_s(1 << 40) == 0
        assert not throttle.limited
        throttle.limit(1)
        assert throttle.limited
        throttle.pause_s(LEAST_BYTES_PER_S)
        assert throttle.pause_s(SMALL_BYTES + 1) < 10

    run(main())


def test_large_messages_of_several_senders_take_turns_and_steps_overtake_them() -> None:
    async def main() -> None:
        throttle, order = Throttle(), list[str]()
        throttle.limit(4 * RATE)

        async def send(name: str, count: int, times: int) -> None:
            for _ in range(times):
                await throttle.turn(count)
                order.append(name)

        throttle.pause_s(2 * RATE)  # so that all of them wait at first
        async with asyncio.TaskGroup() as tasks:
            for name in "abc":
                tasks.create_task(send(name, LARGE, 3))
            await asyncio.sleep(0)
            tasks.create_task(send("step", 4096, 1))
        assert order[0] == "step"
        assert [sorted(order[1:][at : at + 3]) for at in (0, 3, 6)] == 3 * [["a", "b", "c"]]

    run(main())


def test_limit_that_is_lifted_lets_pass_who_waits_and_one_who_gave_up_costs_nothing() -> None:
    async def main() -> None:
        throttle = Throttle()
        throttle.limit(LEAST_BYTES_PER_S)
        throttle.pause_s(1 << 30)  # nobody lives to see the end of this
        gave_up = asyncio.create_task(throttle.turn(LARGE))
        waiting = asyncio.create_task(throttle.turn(LARGE))
        await asyncio.sleep(0)
        gave_up.cancel()
        throttle.limit(RATE)
        await waiting
        throttle.limit(0)
        await throttle.turn(1 << 30)
        await asyncio.gather(gave_up, return_exceptions=True)

    run(main())


def prompt(number: int) -> Step:
    return step(number, rows=128, hidden=1024)  # 256 KiB


def test_streams_that_share_a_limit_send_no_faster_than_that_and_lose_nothing() -> None:
    async def main() -> None:
        bandwidth = Bandwidth()
        bandwidth.limit(upload_bytes_per_s=2 * RATE, download_bytes_per_s=0)
        async with raw_pair() as (near, far), raw_pair() as (other_near, other_far):
            senders = [await LiveStream.adopt(*end, FAR, FAST, bandwidth) for end in (near, other_near)]
            takers = [await LiveStream.adopt(*end, NEAR, FAST) for end in (far, other_far)]
            started = time.monotonic()

            async def exchange(sender: LiveStream, taker: LiveStream) -> None:
                sending = asyncio.gather(*(sender.send(prompt(number)) for number in range(4)))
                for number in range(4):
                    got = await taker.receive()
                    assert isinstance(got, Step)
                    assert np.array_equal(got.hidden, prompt(number).hidden)
                await sending

            await asyncio.gather(*map(exchange, senders, takers))
            sent = 2 * 4 * prompt(0).hidden.nbytes
            assert time.monotonic() - started > (sent - LARGE) / (2 * RATE) - BURST_S - 0.05
            await asyncio.gather(*(stream.close() for stream in (*senders, *takers)))

    run(main())


def test_stream_that_reads_slowly_for_its_limit_stays_alive_and_gets_all() -> None:
    """The line is full for several times the silence after which a peer counts as gone."""

    async def main() -> None:
        bandwidth = Bandwidth()
        bandwidth.limit(upload_bytes_per_s=0, download_bytes_per_s=2 * RATE)
        async with raw_pair() as (near, far):
            sender = await LiveStream.adopt(*near, FAR, FAST)
            taker = await LiveStream.adopt(*far, NEAR, FAST, bandwidth)
            started, count = time.monotonic(), 8

            async def send() -> None:
                for number in range(count):
                    await sender.send(prompt(number))
                await sender.send(Rewind(7))

            sending = asyncio.create_task(send())
            for number in range(count):
                got = await taker.receive()
                assert isinstance(got, Step)
                assert got.step == number
            assert await taker.receive() == Rewind(7)
            await sending
            assert time.monotonic() - started > 3 * FAST.silence_s
            await asyncio.gather(sender.close(), taker.close())

    run(main())
