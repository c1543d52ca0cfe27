"""The contribute screen over the real local API of a node with a sample swarm."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Switch

from peerllm.errors import UsageError
from peerllm.local.lending import Signal
from peerllm.local.membership import Member
from peerllm.local.placement import PlacementAccount
from peerllm.local.schema import MembershipStatus
from peerllm_tui.contribute_screen import ContributeScreen
from peerllm_tui.contribution_facts import lent_facts, membership_facts
from peerllm_tui.policy_choice import PolicyChoice
from tests.api.conftest import ANY_PORT
from tests.support.running_api import RunningApi, running_api
from tests.support.sample_swarm import SampleNode
from tests.support.screens import asks_for_consent, cause_event, on_screen, publish_api, until, withdraw_api, words

HOSTILE = "[bold red]x[/]\x1b[2J\u202e" + "z" * 10_000


def text(screen: ContributeScreen, name: str) -> str:
    return words(screen, f"#{name}")


def switch(screen: ContributeScreen) -> Switch:
    return screen.query_one(Switch)


@pytest.mark.usefixtures("sample_api")
def test_the_switch_lends_this_machine_and_takes_it_back(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        assert not switch(screen).value
        assert "off; you can ask all the same" in text(screen, "lent")
        await pilot.press("space")
        await until(pilot, lambda: "on, blocks 0:12 of 30" in text(screen, "lent"))
        assert node.sharing
        lent = text(screen, "lent")
        assert "less than the 5 % that a move must bring" in lent
        assert "blocks 0:12: nobody else serves them" in lent
        assert "1 of 4 in use" in lent
        assert "202 MiB" in lent
        assert "37.5 MiB of weights" in lent
        await until(pilot, lambda: not switch(screen).disabled)
        await pilot.click("#share")
        await until(pilot, lambda: not node.sharing)
        await until(pilot, lambda: "lends nothing" in text(screen, "switch-words"))

    on_screen(tmp_path, ContributeScreen(), act)


def test_it_follows_what_others_switch(node: SampleNode, sample_api: RunningApi, tmp_path: Path) -> None:
    """And does not take that for a wish of its own."""

    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        await asyncio.to_thread(cause_event, sample_api, sharing=True)
        await until(pilot, lambda: switch(screen).value)
        await asyncio.to_thread(cause_event, sample_api, sharing=False)
        await until(pilot, lambda: not switch(screen).value)
        assert not node.sharing

    on_screen(tmp_path, ContributeScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_what_decides_what_was_given_and_the_log_are_there(node: SampleNode, tmp_path: Path) -> None:
    busy = Signal("processor", "7.5 of 8 cores used by others", held=True)
    node.guest.sharing = True
    node.guest.now = replace(node.guest.now, verdict="pause", reason="paused: other programs are busy", signals=(busy,))

    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        assert text(screen, "switch-words") == "Paused: other programs are busy"
        assert "✗ processor         7.5 of 8 cores used by others · holds lending back" in text(screen, "signals")
        assert "alice             4 800      1 200      4 800      1 200         12" in text(screen, "ledger")
        assert "line 200 of the log" in text(screen, "log")
        assert "until 2030-03-17, made here" in text(screen, "membership")

    on_screen(tmp_path, ContributeScreen(), act)


@pytest.mark.usefixtures("sample_api")
def test_lending_is_paused_resumed_and_ended_by_key_and_by_mouse(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        assert screen.query_one("#pause-30").disabled
        await pilot.press("space")
        await until(pilot, lambda: not screen.query_one("#pause-30").disabled)
        before = time.time()
        await pilot.click("#pause-120")
        await until(pilot, lambda: "Paused by you until" in text(screen, "switch-words"))
        assert before + 7190 < node.guest.now.paused_until < before + 7300
        await pilot.press("u")
        await until(pilot, lambda: "Lent" in text(screen, "switch-words"))
        await pilot.press("p")
        await until(pilot, lambda: before + 1790 < node.guest.now.paused_until < before + 1900)
        await until(pilot, lambda: bool(screen.query_one("#resume").display))
        await pilot.click("#resume")
        await until(pilot, lambda: node.guest.now.paused_until == 0)
        await until(pilot, lambda: not screen.query_one("#finish").disabled)
        await pilot.click("#finish")
        await until(pilot, lambda: node.guest.now.finishing)
        await until(pilot, lambda: "Running sessions may end" in text(screen, "switch-words"))

    on_screen(tmp_path, ContributeScreen(), act)


def test_policy_is_chosen_and_followed(node: SampleNode, sample_api: RunningApi, tmp_path: Path) -> None:
    def held() -> object:
        return {limit.key: limit.value for limit in node.guest.limited}["guest.policy"]

    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        choice = screen.query_one(PolicyChoice)
        await until(pilot, lambda: not switch(screen).disabled)
        assert choice.chosen == "polite"
        choice.focus()
        await pilot.press("down", "enter")
        await until(pilot, lambda: held() == "idle")
        node.guest.now = replace(node.guest.now, policy="night")
        await asyncio.to_thread(cause_event, sample_api)
        await until(pilot, lambda: choice.chosen == "night")
        assert held() == "idle"

    on_screen(tmp_path, ContributeScreen(), act)


def test_a_refusal_is_told_and_the_switch_goes_back(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        await pilot.press("space")
        await until(pilot, lambda: text(screen, "failure") == "[bold]not today[/]")
        await until(pilot, lambda: not switch(screen).disabled and not switch(screen).value)
        assert screen.query_one("#failure").display

    unwilling = SampleNode()
    unwilling.guest.refusal = UsageError("[bold]not today[/]")
    with running_api(ANY_PORT, stand_in=unwilling) as api:
        publish_api(api, tmp_path)
        on_screen(tmp_path, ContributeScreen(), act)


def test_without_a_daemon_it_says_so_and_goes_on_when_there_is_one(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: "no daemon is running" in text(screen, "switch-words"))
        assert switch(screen).disabled
        await pilot.press("space")
        assert not switch(screen).value
        with running_api(ANY_PORT, stand_in=node) as first:
            publish_api(first, tmp_path)
            await until(pilot, lambda: not switch(screen).disabled)
        withdraw_api(tmp_path)
        await until(pilot, lambda: switch(screen).disabled)
        assert "goes on by itself" in text(screen, "switch-words")

    on_screen(tmp_path, ContributeScreen(), act)


@pytest.mark.usefixtures("sample_api")
@pytest.mark.parametrize("size", [(60, 16), (200, 50), (20, 5)])
def test_it_can_be_used_at_any_size(node: SampleNode, tmp_path: Path, size: tuple[int, int]) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        await pilot.press("space")
        await until(pilot, lambda: node.sharing)

    on_screen(tmp_path, ContributeScreen(), act, size)


@pytest.mark.usefixtures("sample_api")
def test_nothing_is_lent_before_the_owner_has_said_yes(node: SampleNode, tmp_path: Path) -> None:
    node.guest.now = replace(node.guest.now, consented=False)

    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        await until(pilot, lambda: not switch(screen).disabled)
        assert "You are asked before anything is lent" in text(screen, "switch-words")
        await pilot.press("space")
        await until(pilot, lambda: asks_for_consent(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen and not switch(screen).value)
        assert not node.sharing
        await until(pilot, lambda: not switch(screen).disabled)
        await pilot.press("space")
        await until(pilot, lambda: asks_for_consent(pilot))
        await pilot.press("y")
        await until(pilot, lambda: node.sharing)

    on_screen(tmp_path, ContributeScreen(), act)


def test_words_of_strangers_are_inert() -> None:
    status = replace(SampleNode().status(), swarm=HOSTILE, membership=MembershipStatus(problem=HOSTILE))
    members = [Member("a", HOSTILE, online=True), Member(HOSTILE, online=True)]
    placement = PlacementAccount(HOSTILE, HOSTILE, alone=(HOSTILE,), missing=(HOSTILE,) * 50)
    for fact in (*lent_facts(status, placement), *membership_facts(status, members)):
        assert fact.text.isprintable()
        assert len(fact.text) < 1500


def test_a_public_swarm_carries_its_warning() -> None:
    status = replace(SampleNode().status(), membership=MembershipStatus(public=True))
    (warning,) = (fact for fact in membership_facts(status, ()) if fact.term == "take care")
    assert "whoever can reach this machine" in warning.text


def test_members_online_are_counted_without_the_revoked() -> None:
    members = [
        Member("a", "desktop", you=True),
        Member("b", "attic", online=True),
        Member("c", "cellar"),
        Member("d", "old", online=True, revoked=True),
    ]
    (online,) = (fact for fact in membership_facts(SampleNode().status(), members) if fact.term == "online")
    assert online.text == "2 of 3 members: desktop and attic"
