"""One screen of the TUI in an app of its own, over the local API of a stand-in node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from peerllm.local.client import LocalClient
from peerllm.local.rendezvous import DaemonAddress, publish, withdraw
from peerllm.locations import Locations
from peerllm_tui.consent import Consent
from peerllm_tui.daemon import Daemon
from peerllm_tui.policy_choice import PolicyChoice
from tests.support.running_api import TOKEN, RunningApi

S = TypeVar("S", bound=Screen[None])

_POLL_S = 0.02


class ScreenApp(App[None]):
    """Shows the screen at once; the daemon is that of the home."""

    def __init__(self, screen: Screen[Any], home: Path) -> None:
        super().__init__()
        self.daemon = Daemon(places(home))
        self._shown = screen

    def on_mount(self) -> None:
        self.push_screen(self._shown)


def on_screen(
    home: Path, screen: S, act: Callable[[Pilot[None], S], Awaitable[None]], size: tuple[int, int] = (110, 34)
) -> None:
    """Show the screen and let `act` use it."""

    async def run() -> None:
        async with ScreenApp(screen, home).run_test(size=size) as pilot:
            await act(pilot, screen)

    asyncio.run(asyncio.wait_for(run(), 30))


def words(screen: Screen[Any], selector: str) -> str:
    """What a text on the screen says; "" while it is not there."""
    return "\n".join(str(found.render()) for found in screen.query(selector).results(Static))


def asks_for_consent(pilot: Pilot[Any]) -> bool:
    """Whether the owner is asked, and can answer."""
    return isinstance(pilot.app.screen, Consent) and isinstance(pilot.app.focused, PolicyChoice)


def places(home: Path) -> Locations:
    return Locations.of({"PEERLLM_HOME": str(home)})


def publish_api(api: RunningApi, home: Path, *, asked: bool = True) -> None:
    """Have clients of this home find that API; unless `asked`, the screens ask for consent first."""
    locations = places(home)
    locations.create()
    if asked:
        locations.asked_file.touch()
    locations.token_file.write_text(TOKEN)
    publish(locations, _address(api))


def withdraw_api(home: Path) -> None:
    withdraw(places(home))


def cause_event(api: RunningApi, *, sharing: bool = True) -> None:
    """Another client of the daemon flips the switch, of which the daemon tells everybody. Blocks."""
    with LocalClient(_address(api), TOKEN) as client:
        client.share(sharing)


async def until(pilot: Pilot[Any], holds: Callable[[], bool], *, polls: int = 500) -> None:
    """Let the app go on until the condition holds."""
    for _ in range(polls):
        if holds():
            return
        await pilot.pause(_POLL_S)
    raise AssertionError(f"it never came: {holds}")


def _address(api: RunningApi) -> DaemonAddress:
    return DaemonAddress(api.host, api.port, os.getpid(), "0")
