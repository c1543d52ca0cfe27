"""The governor's hand on a real contributor, with readings that are made up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from peerllm.choices import load_choices
from peerllm.config_sources import load_config
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import UsageError
from peerllm.giving.accounts import Accounts
from peerllm.guest import FINISHING, Guest
from peerllm.machine_watch import MachineWatch, unknown
from peerllm.serving.contribution import Phase
from peerllm.serving.readings import Readings
from peerllm_swarm.records import PeerState
from tests.support.contributor_world import World, rows, world
from tests.support.peers import until

QUIET = Readings(
    at=0.0,
    idle_s=3600.0,
    on_battery=False,
    cores=4,
    others_cores=0.0,
    memory_total_bytes=16 << 30,
    memory_free_bytes=12 << 30,
    own_memory_bytes=0,
    disk_free_bytes=100 << 30,
    exclusive="",
)


@dataclass
class MadeUp:
    """A reader of a machine that is as a test says."""

    now: Readings = QUIET
    programs: tuple[str, ...] = ()
    let_go: threading.Event = field(default_factory=threading.Event)
    hangs: bool = False
    ready: bool = False
    closed: bool = False

    def read(self, now: float) -> Readings:
        if self.hangs:
            self.let_go.wait()
        return replace(self.now, at=now)

    def ready_to_sleep(self) -> None:
        self.ready = True

    def close(self) -> None:
        self.closed = True


@dataclass
class Lent:
    """A machine that may be lent: its guest, what it was told, and the swarm around."""

    guest: Guest
    machine: MadeUp
    cap: ThreadCap
    told: list[dict[str, Any]]
    it: World

    def phase(self) -> Phase:
        return self.it.contributor.contribution.phase

    async def serving(self) -> None:
        await until(lambda: self.it.presence.record.state is PeerState.ONLINE, 20.0)


@asynccontextmanager
async def guest_of(
    home: Path, machine: MadeUp, flags: dict[str, str]
) -> AsyncIterator[tuple[Guest, ThreadCap, list[dict[str, Any]]]]:
    loaded = load_config(home / "config.toml", env={}, flags={"guest.resume_s": "0", "guest.release_s": "60", **flags})
    told: list[dict[str, Any]] = []
    cap, accounts = ThreadCap(), Accounts(home / "ledger.sqlite")
    guest = Guest(
        loaded,
        home / "choices.json",
        lambda: machine,
        cap,
        accounts,
        lambda kind, data: told.append({**data, "kind": kind}),
    )
    running = asyncio.create_task(guest.run())
    try:
        yield guest, cap, told
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await asyncio.to_thread(accounts.close)


@asynccontextmanager
async def lent(home: Path, **flags: str) -> AsyncIterator[Lent]:
    machine = MadeUp()
    given = {key.replace("__", "."): value for key, value in flags.items()}
    async with world(home, capacity=6) as it, guest_of(home, machine, given) as (guest, cap, told):
        await guest.attach(it.contributor, tuple)
        yield Lent(guest, machine, cap, told, it)
        guest.detach()


def test_nothing_is_lent_before_the_owner_said_yes(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path) as here:
            assert not here.guest.sharing
            assert not here.guest.status().consented
            await here.guest.pause(0)
            assert here.phase() is Phase.OFF
            await here.guest.share(True)
            assert here.guest.status().consented
            await here.serving()
        kept = load_choices(tmp_path / "choices.json")
        assert kept.consented_at is not None
        assert kept.sharing

    asyncio.run(asyncio.wait_for(main(), 60))


def test_it_pauses_within_two_seconds_of_what_the_owner_needs_and_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path, contribution__enabled="true") as here:
            await here.serving()
            assert here.guest.status().verdict == "share"
            span = here.it.presence.record.span
            assert span is not None
            async with here.it.session(span) as chain:
                await chain.step(rows(4), 0)
                here.machine.now = replace(QUIET, exclusive="a game")
                began = time.monotonic()
                await until(lambda: not here.it.contributor.sessions)
                took_s = time.monotonic() - began
            assert here.phase() is Phase.PAUSED
            status = here.guest.status()
            assert status.verdict == "pause"
            assert "a game" in status.reason
            assert status.reason == here.it.contributor.contribution.reason
            assert [signal.name for signal in status.signals if signal.held] == ["exclusive program"]
            assert here.told[-1]["kind"] == "guest"
            assert here.told[-1]["reason"] == status.reason
            assert here.cap.threads == 1
            here.machine.now = QUIET
            await here.serving()
            assert here.it.loads == [span], "the weights were kept"
            print(f"paused {took_s:.2f} s after the trigger")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_memory_that_runs_out_is_given_back_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path, contribution__enabled="true") as here:
            await here.serving()
            here.machine.now = replace(QUIET, memory_free_bytes=100 << 20)
            await until(lambda: here.it.contributor.info is None)
            assert here.guest.status().verdict == "release"
            assert here.phase() is Phase.PAUSED

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_the_owner_says_counts_at_once_and_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path, contribution__enabled="true") as here:
            await here.serving()
            await here.guest.pause(time.time() + 600)
            await until(lambda: here.phase() is Phase.PAUSED)
            assert "you asked" in here.guest.status().reason
            await here.guest.set_limits({"guest.policy": "night", "contribution.max_blocks": 2})
            assert here.guest.config.contribution.max_blocks == 2
            assert {limit.key: limit.source for limit in here.guest.limits()}["guest.policy"] == "choice"
            with pytest.raises(UsageError, match=r"guest\.policy"):
                await here.guest.set_limits({"contribution.slots": 2, "guest.policy": "never"})
            assert here.guest.config.contribution.slots != 2, "all or nothing"
            await here.guest.set_limits({"guest.policy": None})
            await here.guest.pause(0)
            assert here.guest.status().verdict == "share"
        async with guest_of(tmp_path, MadeUp(), {}) as (later, _, _):
            assert later.config.contribution.max_blocks == 2
            assert not later.sharing, "enabled by a flag that is not given now"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_stopping_is_remembered_over_what_the_config_says(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "config.toml").write_text("[contribution]\nenabled = true\n")
        async with guest_of(tmp_path, MadeUp(), {}) as (guest, _, _):
            assert guest.sharing
            await guest.share(False)
        async with guest_of(tmp_path, MadeUp(), {}) as (guest, _, _):
            assert not guest.sharing
            assert guest.status().consented

    asyncio.run(asyncio.wait_for(main(), 30))


def test_finishing_is_told_until_the_last_session_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path, contribution__enabled="true") as here:
            await here.serving()
            span = here.it.presence.record.span
            assert span is not None
            async with here.it.session(span) as chain:
                await chain.step(rows(4), 0)
                await here.guest.share(False, finish=True)
                await until(lambda: here.guest.status().finishing)
                assert here.guest.status().reason == FINISHING
                await until(lambda: here.told[-1]["finishing"])
                await chain.step(rows(1), 4)
            await until(lambda: here.phase() is Phase.OFF)
            await until(lambda: not here.told[-1]["finishing"])

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_machine_about_to_sleep_waits_until_sessions_are_handed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with lent(tmp_path, contribution__enabled="true") as here:
            await here.serving()
            here.machine.now = replace(QUIET, suspending=True)
            await until(lambda: here.machine.ready)
            assert not here.it.contributor.sessions
            assert here.phase() is Phase.PAUSED

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_reader_that_hangs_stops_nobody() -> None:
    async def main() -> None:
        machine = MadeUp(hangs=True)
        watch = MachineWatch(lambda: machine, within_s=0.05)
        assert await watch.read(1e9, ()) == unknown(1e9)
        assert await watch.read(1e9 + 1, ("blender",)) == unknown(1e9 + 1)
        machine.let_go.set()
        machine.hangs = False
        await asyncio.sleep(0.05)
        assert (await watch.read(1e9 + 2, ())).cores == QUIET.cores, "the answer to the first question"
        assert (await watch.read(1e9 + 3, ("blender",))).at == 1e9 + 3
        assert machine.programs == ("blender",)
        await asyncio.to_thread(watch.close)
        assert machine.closed

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_reader_that_fails_is_asked_again() -> None:
    async def main() -> None:
        made: list[MadeUp] = []

        def make() -> MadeUp:
            if not made:
                made.append(MadeUp())
                raise OSError("no such bus")
            return made[0]

        watch = MachineWatch(make)
        assert await watch.read(1e9, ()) == unknown(1e9)
        assert (await watch.read(1e9, ())).cores == QUIET.cores
        await asyncio.to_thread(watch.close)

    asyncio.run(asyncio.wait_for(main(), 30))
