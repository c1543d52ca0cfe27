"""The owner's limits: read and written as people do, refused at the place where they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from peerllm.local.lending import Limit
from peerllm_tui.contribute_screen import ContributeScreen
from peerllm_tui.limit_form import LimitForm, LimitRow
from peerllm_tui.limit_text import about_text, default_text, limit_text, limit_value
from tests.support.sample_swarm import SampleNode
from tests.support.screens import on_screen, until

MEMORY = "contribution.memory_bytes"
HOSTILE = "[bold red]x[/]\x1b[2J\u202e"


def limit(key: str, value: object, default: object | None = None) -> Limit:
    return Limit(key, value, value if default is None else default, "anything", "What it is for.")


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        (limit("a.memory_bytes", 2 << 30), "2GiB"),
        (limit("a.memory_bytes", 1536 << 20), "1536MiB"),
        (limit("a.upload_bytes_per_s", 1001), "1001"),
        (limit("a.upload_bytes_per_s", 2_000_000), "2MB"),
        (limit("a.memory_bytes", 0), "0"),
        (limit("a.slots", 4), "4"),
        (limit("a.idle_after_s", 300.0), "300"),
        (limit("a.metered", False), "false"),
        (limit("a.programs", ["blender", "*.x86_64"]), "blender, *.x86_64"),
        (limit("a.hours", "22:00-07:00"), "22:00-07:00"),
    ],
)
def test_a_limit_is_written_as_it_is_read(shown: Limit, value: str) -> None:
    assert limit_text(shown) == value
    assert limit_value(shown, value) == shown.value


@given(st.integers(0, 1 << 62))
def test_sizes_come_back_to_the_byte(size: int) -> None:
    shown = limit("a.memory_bytes", size)
    read = limit_value(shown, limit_text(shown))
    assert read == size or size > 1 << 53  # floats end there, as they do in config.toml


@pytest.mark.parametrize(
    ("shown", "text", "value"),
    [
        (limit("a.memory_bytes", 0), "1.5 GiB", 3 << 29),
        (limit("a.upload_bytes_per_s", 0), "2MB/s", 2_000_000),
        (limit("a.memory_bytes", 0), "much", "much"),
        (limit("a.slots", 4), "four", "four"),
        (limit("a.metered", True), "off", False),
        (limit("a.metered", True), "perhaps", "perhaps"),
        (limit("a.programs", ()), "", []),
    ],
)
def test_what_is_none_of_the_kind_is_left_for_the_daemon_to_refuse(shown: Limit, text: str, value: object) -> None:
    assert limit_value(shown, text) == value


def test_words_of_a_daemon_are_inert() -> None:
    evil = Limit("a.hours", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    assert all(text.isprintable() for text in (limit_text(evil), default_text(evil), about_text(evil)))


def value_of(node: SampleNode, key: str) -> object:
    return {limit.key: limit.value for limit in node.guest.limited}[key]


async def form(pilot: Pilot[None], screen: ContributeScreen) -> LimitRow:
    """The row of the memory limit, once it is there."""
    await until(pilot, lambda: len(screen.query(LimitRow)) > 1)
    row = screen.query_one(LimitForm).row(MEMORY)
    assert row is not None
    row.query_one(Input).focus()
    await pilot.pause()
    return row


@pytest.mark.usefixtures("sample_api")
def test_a_limit_is_changed_refused_and_reset(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        row = await form(pilot, screen)
        field = row.query_one(Input)
        assert field.value == "2GiB"
        field.value = "much"
        await pilot.press("enter")
        await until(pilot, lambda: row.has_class("-refused"))
        assert "'much' is no size" in str(row.query_one(".problem").render())
        assert value_of(node, MEMORY) == 2 << 30
        await pilot.press("escape")
        assert field.value == "2GiB"
        assert not row.has_class("-refused")
        field.value = "3GiB"
        await pilot.press("enter")
        await until(pilot, lambda: value_of(node, MEMORY) == 3 << 30)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: value_of(node, MEMORY) == 0)
        await until(pilot, lambda: field.value == "0" and not row.has_class("-chosen"))

    on_screen(tmp_path, ContributeScreen(), act, (140, 44))


@pytest.mark.usefixtures("sample_api")
def test_what_is_being_written_is_left_alone(node: SampleNode, tmp_path: Path) -> None:
    async def act(pilot: Pilot[None], screen: ContributeScreen) -> None:
        row = await form(pilot, screen)
        field = row.query_one(Input)
        field.value = "7G"
        await node.guest.set_limits({MEMORY: 1 << 30})
        await until(pilot, lambda: row.shown == "1GiB")
        assert field.value.startswith("7G")

    on_screen(tmp_path, ContributeScreen(), act, (140, 44))
