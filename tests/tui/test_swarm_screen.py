"""The swarm screen over the real local API of a node with a sample swarm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import DataTable

from peerllm_tui.swarm_screen import SwarmScreen
from tests.api.conftest import ANY_PORT
from tests.support.running_api import RunningApi, running_api
from tests.support.sample_accounts import FINISHED
from tests.support.sample_swarm import ATTIC, CELLAR, DESKTOP, MODEL, OTHER_MODEL, SampleNode
from tests.support.screens import cause_event, on_screen, publish_api, until, withdraw_api, words

HOSTILE = "[bold red]x[/] [@click=app.quit]y[/]\x1b[2J\u202e" + "z" * 10_000


def text(screen: SwarmScreen, name: str) -> str:
    return words(screen, f"#{name}")


def names(screen: SwarmScreen) -> list[str]:
    table = screen.query_one(DataTable)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


async def seen(pilot: Pilot[None], screen: SwarmScreen) -> None:
    await until(pilot, lambda: screen.query_one(DataTable).row_count > 0)


@pytest.mark.usefixtures("sample_api")
def test_map_risk_peers_and_route_are_there(node: SampleNode, tmp_path: Path) -> None:
    node.ledger.keep(FINISHED)

    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        assert "8 other peers in view" in text(screen, "where")
        assert "▸ desktop (you)" in text(screen, "map")
        assert "one departure from breaking at blocks 0:12 (this machine) and 12:18 (attic)" in text(screen, "risk")
        assert "attic 0:12 3.5 ms → cellar 12:30 10.8 ms; slowest: cellar, 72% of the round" in text(screen, "route")
        assert names(screen)[0] == "desktop (you)"
        assert len(names(screen)) == 9

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_route_of_the_answer_under_way_is_followed(node: SampleNode, tmp_path: Path) -> None:
    now = [replace(FINISHED, outcome="running", hops=(), answer_tokens=0, changes=())]

    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        with node.ledger.following(lambda: now[0]):
            await until(pilot, lambda: "answering now: looking for a route for smollm2" in text(screen, "route"))
            now[0] = replace(FINISHED, outcome="running", answer_tokens=17)
            await until(pilot, lambda: "slowest: cellar, 72% of the round" in text(screen, "route"))
            assert "token 17" in text(screen, "route")
        await until(pilot, lambda: "nothing was answered" in text(screen, "route"))

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_without_an_answer_yet_it_says_so(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        assert "nothing was answered" in text(screen, "route")

    on_screen(tmp_path, SwarmScreen(), act)


def test_a_departure_is_seen_as_soon_as_the_daemon_tells(
    node: SampleNode, sample_api: RunningApi, tmp_path: Path
) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        node.seen = [DESKTOP, CELLAR]
        await asyncio.to_thread(cause_event, sample_api)
        await until(pilot, lambda: "nobody serves blocks 12:18" in text(screen, "risk"))
        assert "!!!!!!" in text(screen, "map")
        assert names(screen) == ["desktop (you)", "cellar"]

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_models_are_chosen_by_key_and_by_mouse(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        await until(pilot, lambda: text(screen, "risk").startswith(MODEL))
        await pilot.press("m")
        await until(pilot, lambda: text(screen, "risk").startswith(OTHER_MODEL))
        assert "tower" in text(screen, "map")
        await pilot.click("#where", offset=(text(screen, "where").index(MODEL) + 3, 0))
        await until(pilot, lambda: text(screen, "risk").startswith(MODEL))

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_table_is_sorted_by_key_and_keeps_its_cursor(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        await pilot.press("down", "down")
        chosen = text(screen, "peer").split()[0]
        await pilot.press("s", "s")  # state, RTT
        assert names(screen)[:3] == ["desktop (you)", "tower", "attic"]
        await pilot.press("r")
        assert names(screen)[0] == "stranger"
        assert names(screen)[-1] == "kitchen"  # never measured
        await pilot.pause()
        assert text(screen, "peer").split()[0] == chosen

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_why_a_peer_is_not_asked_is_said(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        screen.query_one(DataTable).move_cursor(row=names(screen).index("stranger"))
        await until(pilot, lambda: "quarantined: answered otherwise" in text(screen, "peer"))

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
@pytest.mark.parametrize("size", [(60, 16), (200, 50), (20, 5)])
def test_names_of_strangers_do_nothing_at_any_size(node: SampleNode, tmp_path: Path, size: tuple[int, int]) -> None:
    evil = replace(ATTIC, name=HOSTILE, model=HOSTILE, engine=HOSTILE, trust=HOSTILE, trust_reason=HOSTILE)
    node.seen = [DESKTOP, evil, replace(evil, peer_id=HOSTILE, reach=HOSTILE, reach_reason=HOSTILE)]

    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        await pilot.press("m", "down", "down", "s", "r")
        await pilot.pause()
        shown = text(screen, "map") + text(screen, "risk") + text(screen, "peer") + "".join(names(screen))
        assert "[bold red]x[/]" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert len(shown) < 5000
        assert "z" * 400 not in pilot.app.export_screenshot()

    on_screen(tmp_path, SwarmScreen(), act, size)


def test_it_waits_for_a_daemon_and_finds_it_again(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await until(pilot, lambda: "no daemon is running" in text(screen, "where"))
        with running_api(ANY_PORT, stand_in=node) as first:
            publish_api(first, tmp_path)
            await seen(pilot, screen)
            assert not screen.has_class("-away")
        withdraw_api(tmp_path)
        await until(pilot, lambda: "no daemon is running" in text(screen, "where"))
        assert screen.has_class("-away")

    on_screen(tmp_path, SwarmScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_nothing_is_asked_while_it_is_hidden(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: SwarmScreen) -> None:
        await seen(pilot, screen)
        await pilot.app.push_screen(Screen[None]())
        await pilot.pause()
        assert not [worker for worker in pilot.app.workers if worker.group == "watch" and worker.is_running]
        pilot.app.pop_screen()
        await pilot.pause()
        assert [worker for worker in pilot.app.workers if worker.group == "watch" and worker.is_running]

    on_screen(tmp_path, SwarmScreen(), act)
