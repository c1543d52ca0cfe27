"""The app around its screens: the daemon that comes and goes, consent, and what a newcomer is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from peerllm.cli import main
from peerllm.local.launch import launch_daemon, stop_daemon
from peerllm.locations import Locations
from peerllm_tui.app import DARK, LIGHT, PeerllmApp
from peerllm_tui.chat_screen import ChatScreen
from peerllm_tui.preparation import bar
from peerllm_tui.question_box import QuestionBox
from peerllm_tui.status_line import StatusLine
from peerllm_tui.welcome import Welcome
from tests.api.conftest import ANY_PORT
from tests.support.chat_pilot import in_app, in_chat
from tests.support.running_api import RunningApi, running_api
from tests.support.screens import asks_for_consent, places, publish_api, until, withdraw_api, words
from tests.support.whole_model_node import WholeModel


def test_daemon_may_come_go_and_come_back(whole_model: WholeModel, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        line = screen.query_one(StatusLine)
        await until(pilot, lambda: "F4 starts one" in line.said)
        await pilot.press(*"Hi", "enter")
        assert screen.query_one(QuestionBox).text == "Hi"
        for _ in range(2):
            with running_api(ANY_PORT, whole_model) as api:
                publish_api(api, tmp_path)
                await until(pilot, lambda: line.state == "serving")
                withdraw_api(tmp_path)
            await until(pilot, lambda: "F4 starts one" in line.said)

    in_chat(tmp_path, act)


@pytest.mark.e2e
def test_f4_starts_a_daemon(tmp_path: Path) -> None:
    launched: list[subprocess.Popen[bytes]] = []

    def launch(locations: Locations) -> subprocess.Popen[bytes]:
        code = f"import os, sys; sys.path.insert(0, {os.getcwd()!r}); os.environ['PEERLLM_HOME'] = {str(tmp_path)!r}; "
        run = "import asyncio; from tests.support.stand_in_daemon import serve; asyncio.run(serve())"
        launched.append(launch_daemon(locations, command=(sys.executable, "-c", code + run)))
        return launched[0]

    app = PeerllmApp(places(tmp_path), launch=launch)

    async def run() -> None:
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.problem == "no daemon runs; F4 starts one")
            await pilot.press("f4")
            await until(pilot, lambda: asks_for_consent(pilot), polls=1500)
            await pilot.press("escape")
            await until(pilot, lambda: app.facts is not None and isinstance(app.screen, ChatScreen))
            assert app.facts is not None
            assert not app.facts.status.contribution.enabled

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        stop_daemon(places(tmp_path), timeout_s=10)
        assert launched[0].wait(10) == 0


def test_consent_is_asked_once_and_given_with_a_policy(whole_model: WholeModel, tmp_path: Path) -> None:
    async def decline(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: asks_for_consent(pilot))
        said = words(pilot.app.screen, "Static")
        for part in ("What leaves this machine", "What others can see", "What it costs", "How to stop"):
            assert part in said
        assert "members of your swarm home" in said
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        assert not api.node.sharing

    async def agree(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, PeerllmApp)
        await until(pilot, lambda: app.facts is not None)
        await pilot.pause()
        assert isinstance(app.screen, ChatScreen)
        (command,) = (each for each in app.get_system_commands(app.screen) if each.title == "Lend this computer")
        command.callback()
        await until(pilot, lambda: asks_for_consent(pilot))
        await pilot.press("down", "down", "enter", "y")
        await until(pilot, lambda: api.node.sharing)

    with running_api(ANY_PORT, whole_model) as api:
        publish_api(api, tmp_path, asked=False)
        for act in (decline, agree):
            in_app(tmp_path, act)
    assert {limit.key: limit.value for limit in api.node.guest.limited}["guest.policy"] == "night"


def test_a_newcomer_is_led_into_a_swarm(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await until(pilot, lambda: screen.query_one(Welcome).has_class("-alone"))
        field = screen.query_one("#join", Input)
        field.focus()
        field.value = "no/way"
        await pilot.press("enter")
        await until(pilot, lambda: "is no HOST[:PORT]" in words(screen, "#join-problem"))
        field.value = "attic:7338"
        await pilot.press("enter")
        await until(pilot, lambda: api.node.joined == ["attic:7338"])
        await until(pilot, lambda: field.value == "" and not field.disabled)

    in_chat(tmp_path, act)


def test_a_model_on_its_way_is_shown_with_how_far_it_is(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await until(pilot, lambda: words(screen, "#progress") == f"loading: all blocks here\n{bar(0.25)} 25%")

    with running_api(ANY_PORT) as api:
        publish_api(api, tmp_path)
        in_chat(tmp_path, act)


def test_without_a_daemon_a_button_offers_one(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        await until(pilot, lambda: screen.query_one(Welcome).has_class("-no-daemon"))
        assert screen.query_one("#start").display
        assert "None runs for you now" in words(screen, "#hint")

    in_chat(tmp_path, act)


def test_the_palette_has_every_screen_s_commands(api: RunningApi, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        app = pilot.app
        for key, title in (("f1", "Choose the model"), ("f2", "Show the next model"), ("f3", "Resume lending")):
            await pilot.press(key)
            await until(
                pilot, lambda title=title: title in {each.title for each in app.get_system_commands(app.screen)}
            )

    in_chat(tmp_path, act)


@pytest.mark.parametrize("name", ["chat", "swarm", "contribute"])
def test_small_and_colourless_terminals_will_do(
    api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def act(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, PeerllmApp)
        app.action_show(name)
        await until(pilot, lambda: bool(app.screen.query(StatusLine)) and app.facts is not None)
        await pilot.pause()
        for widget in (app.screen.query_one(StatusLine), app.screen.focused):
            assert widget is not None
            assert app.screen.region.contains_region(widget.region)
        assert "F3 Contribute" in app.export_screenshot().replace("&#160;", " ")

    in_app(tmp_path, act, size=(60, 16))


def test_screens_and_themes_change(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ChatScreen) -> None:
        for key, name in (("f2", "SwarmScreen"), ("f3", "ContributeScreen"), ("f1", "ChatScreen")):
            await pilot.press(key)
            await until(pilot, lambda name=name: type(pilot.app.screen).__name__ == name)
            await until(pilot, lambda: len(pilot.app.screen.query(StatusLine)) == 1)
        for theme in (LIGHT, DARK):
            await pilot.press("ctrl+t")
            assert pilot.app.theme == theme

    in_chat(tmp_path, act)


def test_command_says_what_to_do_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat"]) == 4
    assert "there is no terminal" in capsys.readouterr().err
