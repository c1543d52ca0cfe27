"""The screens in a browser: nobody comes in but by the address, whatever a page of others tries."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

pytest.importorskip("textual_serve")

from aiohttp import ClientSession, CookieJar, WSMsgType, WSServerHandshakeError

from peerllm_tui.web_gate import CODE_LIFETIME_S, Asked, Gate, Refusal
from peerllm_tui.web_terminal import WebTerminal, listening

SCREENS = (sys.executable, "-m", "peerllm", "chat")
NOTHING = ("sh", "-c", "echo __GANGLION__; exec cat >/dev/null")

Act = Callable[[ClientSession, WebTerminal], Awaitable[None]]


def served(act: Act, command: tuple[str, ...] = NOTHING, *, most_tabs: int = 2) -> None:
    """Let a browser's worth of requests come to a server of its own."""

    async def main() -> None:
        with listening(0) as listener:
            terminal = WebTerminal(command, listener.getsockname()[1], most_tabs=most_tabs)
            ready = asyncio.Event()
            serving = asyncio.create_task(terminal.run(listener, lambda _: ready.set()))
            try:
                await ready.wait()
                async with ClientSession(terminal.gate.url, cookie_jar=CookieJar(unsafe=True)) as browser:
                    await act(browser, terminal)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 60))


async def status(browser: ClientSession, path: str, headers: Mapping[str, str] | None = None) -> int:
    async with browser.get(path, headers=headers) as response:
        await response.read()
        return response.status


async def let_in(browser: ClientSession, terminal: WebTerminal) -> str:
    """The folder of the screens, for which the browser now has the cookie."""
    async with browser.get("/", params={"token": terminal.gate.code}) as response:
        assert response.status == 200
        page = await response.text()
    folder = page.split("url=")[1].split('"')[0]
    assert folder == f"{terminal.gate.folder}/"
    return folder


async def refused_socket(browser: ClientSession, path: str, origin: str) -> int:
    with pytest.raises(WSServerHandshakeError) as refused:
        await browser.ws_connect(path, origin=origin)
    return refused.value.status


def test_nothing_is_served_without_the_code() -> None:
    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = terminal.gate.folder
        for path in ("/", "/?token=", "/?token=wrong", "/?token=\u00e9", "/static/js/textual.js", "/ws"):
            assert await status(browser, path) == 401
        for path in (f"{folder}/", f"{folder}/ws", f"{folder}/static/js/textual.js", f"{folder}/download/x"):
            assert await status(browser, path) == 401
        assert await refused_socket(browser, f"{folder}/ws", terminal.gate.url) == 401

    served(act)


def test_the_address_lets_one_browser_in_once() -> None:
    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = await let_in(browser, terminal)
        async with browser.get(folder) as page:
            assert page.status == 200
            assert f"ws://127.0.0.1:{terminal.port}{folder}ws" in await page.text()
            assert page.headers["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert await status(browser, f"{folder}static/js/textual.js") == 200
        async with ClientSession(terminal.gate.url) as another:
            assert await status(another, f"/?token={terminal.gate.code}") == 401
            assert await status(another, folder) == 401

    served(act)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7339", "localhost", "127.0.0.1", ":80", "", "[::1]"])
def test_another_name_is_refused(host: str) -> None:
    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = await let_in(browser, terminal)
        for path in ("/", f"/?token={terminal.gate.code}", folder, f"{folder}ws"):
            assert await status(browser, path, {"Host": host}) == 403

    served(act)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost", "http://127.0.0.1:1", "file://"])
def test_pages_of_others_are_refused_even_with_the_cookie(origin: str) -> None:
    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = await let_in(browser, terminal)
        assert await status(browser, folder, {"Origin": origin}) == 403
        assert await refused_socket(browser, f"{folder}ws", origin) == 403

    served(act)


def test_tabs_are_bounded_and_give_their_place_back() -> None:
    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = await let_in(browser, terminal)
        async with browser.ws_connect(f"{folder}ws", origin=terminal.gate.url):
            assert terminal.tabs == 1
            assert await refused_socket(browser, f"{folder}ws", terminal.gate.url) == 503
            assert await status(browser, folder) == 503
        while terminal.tabs:
            await asyncio.sleep(0.01)
        assert await status(browser, folder) == 200

    served(act, most_tabs=1)


def test_the_screens_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `peerllm chat` draws them, in a process that ends with its tab."""
    monkeypatch.setenv("PEERLLM_HOME", str(tmp_path))

    async def act(browser: ClientSession, terminal: WebTerminal) -> None:
        folder = await let_in(browser, terminal)
        async with browser.ws_connect(f"{folder}ws?width=80&height=24", origin=terminal.gate.url) as socket:
            drawn = b""
            async for message in socket:
                drawn += message.data if message.type is WSMsgType.BINARY else b""
                if b"F2 Swarm" in drawn:
                    break
        while terminal.tabs:
            await asyncio.sleep(0.01)

    served(act, SCREENS)


def test_a_code_is_good_for_minutes_not_for_ever() -> None:
    gate = Gate(7339)
    assert gate.admits(gate.code, age_s=CODE_LIFETIME_S, used=False) is None
    assert gate.admits(gate.code, age_s=CODE_LIFETIME_S + 1, used=False) is not None
    assert gate.admits(gate.code, age_s=0, used=True) is not None


def test_a_socket_says_where_it_comes_from() -> None:
    gate = Gate(7339)
    asked = Asked(f"{gate.folder}/ws", ["127.0.0.1:7339"], [], gate.cookie, is_websocket=True)
    assert gate.refusal(asked) == Refusal(403, "other pages may not come here")


def test_secrets_are_in_no_representation() -> None:
    gate = Gate(7339)
    assert not any(secret in repr(gate) for secret in (gate.folder, gate.cookie, gate.code))


def test_a_port_that_is_taken_makes_way_for_the_next() -> None:
    with listening(0) as first:
        port = first.getsockname()[1]
        with listening(port) as second:
            assert port < second.getsockname()[1] < port + 10
