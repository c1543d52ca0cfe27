"""The real tray as a process, on a session bus with a stand-in for the panel, over a real local API."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("dbus_fast")
pytest.importorskip("PIL")

from peerllm.config import ApiConfig, Config
from peerllm.errors import UsageError
from peerllm.local.launch import stop_daemon
from peerllm.locations import Locations
from tests.support.daemons import peerllm_environment
from tests.support.running_api import RunningApi, running_api
from tests.support.screens import publish_api, withdraw_api
from tests.support.tray_host import TrayHost, session_bus, tray_environment, tray_host

pytestmark = pytest.mark.e2e

ANY_PORT = replace(Config(), api=ApiConfig(port=0))
RED, GREY, GREEN, AMBER, BLUE = (220, 50, 47), (139, 146, 156), (38, 162, 94), (245, 166, 35), (45, 120, 235)


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    with session_bus() as address:
        yield address


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(ANY_PORT) as running:
        publish_api(running, tmp_path)
        yield running


@contextmanager
def running(line: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(line, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Desk:
    """A home with its desktop."""

    home: Path
    bus: str

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`peerllm tray`, to its end."""
        line = [sys.executable, "-m", "peerllm", "tray", *arguments]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=30)

    @contextmanager
    def tray(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with running([sys.executable, "-m", "peerllm", "tray", *arguments], self.environment) as process:
            yield process

    @property
    def environment(self) -> dict[str, str]:
        return tray_environment(self.bus, peerllm_environment(self.home, {}))

    def act(self, act: Callable[[TrayHost], Awaitable[None]]) -> None:
        """With a panel and a tray."""

        async def run() -> None:
            async with tray_host(self.bus) as host:
                with self.tray():
                    await act(host)

        asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def desk(tmp_path: Path, bus: str) -> Desk:
    return Desk(tmp_path, bus)


async def shows(host: TrayHost, colour: tuple[int, int, int]) -> None:
    """Wait until the icon has that colour."""
    deadline = time.monotonic() + 15
    while not has_colour((await host.property("IconPixmap"))[-1], colour):
        if time.monotonic() > deadline:
            raise AssertionError(f"never {colour}: {await host.property('ToolTip')}")
        await asyncio.sleep(0.02)


def has_colour(pixmap: list, colour: tuple[int, int, int]) -> bool:
    _, _, pixels = pixmap
    return bytes((255, *colour)) in pixels


def test_first_yes_is_asked_in_the_menu_and_then_a_click_is_enough(desk: Desk, api: RunningApi) -> None:
    async def act(host: TrayHost) -> None:
        question = await host.menu_with("Contribute …")
        assert question.shown[0].label == "Lend this computer to the swarm home?"
        await shows(host, GREY)
        await host.click_icon()
        await host.until(lambda: any("Nothing is lent" in title for title, _ in host.notifications.told))
        assert not api.node.guest.sharing
        await host.choose("Contribute …", "Yes*")
        await shows(host, GREEN)
        assert api.node.guest.sharing
        assert (await host.menu_until(lambda menu: menu.has("Contribute"), "Contribute")).checked
        await host.until(lambda: ("This computer is lent", LENT) in host.notifications.told)
        await host.click_icon()
        await shows(host, GREY)
        assert not api.node.guest.sharing
        await host.choose("Contribute")
        await shows(host, GREEN)

    desk.act(act)


LENT = "It serves blocks 0:30 of smollm2-135m. A click on the icon stops that."


def test_pause_resume_and_finish(desk: Desk, api: RunningApi) -> None:
    asyncio.run(api.node.guest.share(True))

    async def act(host: TrayHost) -> None:
        await host.choose("Pause", "For 2 hours")
        await host.menu_with("Resume")
        assert 7100 < api.node.guest.now.paused_until - time.time() < 7300
        await host.choose("Resume")
        await host.menu_with("Pause")
        assert api.node.guest.now.paused_until == 0
        await host.choose("Finish current work and stop")
        await host.menu_with("Finishing*")
        assert api.node.guest.now.finishing

    desk.act(act)


def test_limits_are_radio_groups_and_set_at_once(desk: Desk, api: RunningApi) -> None:
    def limit(key: str) -> object:
        return next(limit.value for limit in api.node.guest.limits() if limit.key == key)

    async def act(host: TrayHost) -> None:
        lend = await host.menu_with("How much to lend")
        assert lend.at("As set: 2.00 GiB").checked
        await host.choose("How much to lend", "Half of it*")
        await host.menu_until(lambda menu: menu.at("How much to lend", "Half of it*").checked)
        assert limit("contribution.memory_bytes") != 2 << 30
        await host.choose("How much to lend", "1 core")
        await host.menu_until(lambda menu: menu.at("How much to lend", "1 core").checked)
        await host.choose("How much to lend", "At night")
        await host.menu_until(lambda menu: menu.at("How much to lend", "At night").checked)
        assert (limit("engine.threads"), limit("guest.policy")) == (1, "night")

    desk.act(act)


def test_every_state_has_its_picture(desk: Desk, api: RunningApi) -> None:
    guest = api.node.guest
    asyncio.run(guest.share(True))

    async def act(host: TrayHost) -> None:
        await shows(host, GREEN)
        guest._becomes(using=("attic", "<b>x</b>"), gave_tokens=12345)
        await shows(host, BLUE)
        await host.menu_with("In use by attic and <b>x</b>")
        await host.menu_with("Today: gave 12,345*")
        guest._becomes(using=(), verdict="pause", reason="a full-screen program runs")
        await shows(host, AMBER)
        assert (await host.property("ToolTip"))[3] == "A full-screen program runs"
        assert await host.property("Status") == "Active"

    desk.act(act)


def test_open_menu_gets_new_words_but_no_new_shape(desk: Desk, api: RunningApi) -> None:
    guest = api.node.guest
    asyncio.run(guest.share(True))

    async def act(host: TrayHost) -> None:
        await host.menu_with("Sharing*")
        await host.event(0, "opened")
        host.signals.clear()
        guest._becomes(using=("attic",))
        await host.menu_with("In use by attic")
        guest.limited.append(replace(guest.limited[0], key="contribution.model", value="other"))
        guest._becomes(using=("barn",))
        await host.menu_with("In use by barn")
        assert not (await host.menu()).has("Model to serve")
        assert set(host.signals) == {"ItemsPropertiesUpdated"}
        await host.event(0, "closed")
        await host.menu_with("Model to serve", "As set: other")
        assert "LayoutUpdated" in host.signals

    desk.act(act)


def test_refusal_of_the_daemon_is_said(desk: Desk, api: RunningApi) -> None:
    api.node.guest.refusal = UsageError("not in this state")

    async def act(host: TrayHost) -> None:
        await host.choose("Contribute …", "Yes*")
        await host.menu_with("That did not work: not in this state")
        await host.until(lambda: ("That did not work", "not in this state") in host.notifications.told)

    desk.act(act)


def test_daemon_that_comes_back_is_found_again(desk: Desk, tmp_path: Path) -> None:
    async def act(host: TrayHost) -> None:
        with running_api(ANY_PORT) as api:
            publish_api(api, tmp_path)
            await host.menu_with("Contribute …")
        withdraw_api(tmp_path)
        await shows(host, RED)
        await host.menu_with("Start the daemon")
        with running_api(ANY_PORT) as api:
            publish_api(api, tmp_path)
            await host.menu_with("Contribute …")
            await shows(host, GREY)

    with running_api(ANY_PORT) as api:  # one has to be there, or the tray starts one
        publish_api(api, tmp_path)
        desk.act(act)


@pytest.mark.slow
def test_it_starts_a_daemon_at_first_and_later_when_told(desk: Desk) -> None:
    where = f"import os, sys; sys.path.insert(0, {os.getcwd()!r}); os.environ['PEERLLM_HOME'] = {str(desk.home)!r}"
    serve = f"{where}; import asyncio; from tests.support.stand_in_daemon import serve; asyncio.run(serve())"
    deeds = f"Deeds(Locations.of(), autostart(), (sys.executable, '-c', {serve!r}))"
    names = "from peerllm.locations import Locations; from peerllm_tray.app import Tray; from peerllm_tray.autostart "
    names += (
        "import autostart; from peerllm_tray.deeds import Deeds; from peerllm_tray.hosting import first_host, show; "
    )
    names += "from peerllm_tray.moment import Machine"
    program = f"{where}; {names}; show(Tray({deeds}, Machine(1 << 34, 8)), first_host(0))"
    places = Locations.of(desk.environment)

    async def run() -> None:
        async with tray_host(desk.bus) as host:
            with running([sys.executable, "-c", program], desk.environment) as process:
                await host.menu_with("Contribute …")
                await asyncio.to_thread(stop_daemon, places, timeout_s=10)
                await shows(host, RED)
                await host.choose("Start the daemon")
                await host.menu_with("Contribute …")
                assert process.poll() is None
                await asyncio.to_thread(stop_daemon, places, timeout_s=10)

    asyncio.run(asyncio.wait_for(run(), 90))


def test_panel_that_comes_back_shows_the_icon_again(desk: Desk, api: RunningApi) -> None:
    async def act(host: TrayHost) -> None:
        await host.menu_with("Contribute …")
        await host.vanish()
        await host.appear()
        await host.menu_with("Contribute …")

    desk.act(act)


def test_second_tray_leaves_politely_and_quit_ends_the_first(desk: Desk, api: RunningApi) -> None:
    asyncio.run(api.node.guest.share(True))

    async def run() -> None:
        async with tray_host(desk.bus) as host:
            with desk.tray() as process:
                await host.menu_with("Contribute")
                second = await asyncio.to_thread(desk.command)
                assert second.returncode == 0
                assert "a tray runs already" in second.stdout
                await host.choose("Quit and stop sharing")
                assert await asyncio.to_thread(process.wait, 10) == 0
                assert not api.node.guest.sharing

    asyncio.run(asyncio.wait_for(run(), 60))


def test_start_at_login_writes_and_removes_the_entry(desk: Desk, api: RunningApi) -> None:
    entry = desk.home / "xdg" / "autostart" / "peerllm.desktop"

    async def act(host: TrayHost) -> None:
        await host.choose("Start at login")
        await host.menu_until(lambda menu: menu.at("Start at login").checked)
        assert "tray --wait 60" in entry.read_text()
        await host.choose("Start at login")
        await host.menu_until(lambda menu: not menu.at("Start at login").checked)
        assert not entry.exists()

    desk.act(act)


def test_without_a_tray_it_says_what_to_do(desk: Desk) -> None:
    ended = desk.command()
    assert ended.returncode == 4
    assert "no tray on this desktop" in ended.stderr
    assert "peerllm share on|off" in ended.stderr


def test_it_can_wait_for_a_panel(desk: Desk, api: RunningApi) -> None:
    async def run() -> None:
        async with tray_host(desk.bus, present=False) as host:
            with desk.tray("--wait", "30") as process:
                await asyncio.sleep(1)
                assert process.poll() is None
                await host.appear()
                await host.menu_with("Contribute …")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_sharing_survives_the_tray(desk: Desk, api: RunningApi) -> None:
    asyncio.run(api.node.guest.share(True))

    async def run() -> None:
        async with tray_host(desk.bus) as host:
            with desk.tray() as process:
                await host.choose("Quit (sharing goes on)")
                assert await asyncio.to_thread(process.wait, 10) == 0

    asyncio.run(asyncio.wait_for(run(), 60))
    assert api.node.guest.sharing
