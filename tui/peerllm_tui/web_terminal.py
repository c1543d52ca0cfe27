"""The screens in a browser: textual-serve on loopback behind the gate, every tab a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from peerllm.errors import PeerllmError
from peerllm_tui.web_gate import Asked, Gate, Refusal, cookie_in

PORT = 7339
MOST_TABS = 8
"""Each is a process of some 60 MiB."""

_PORTS_TRIED = 10
_HEARTBEAT_S = 15.0
_QUIT_S = 2.0
_SHUTDOWN_S = 2 * _QUIT_S
_ENTRANCE = """\
<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={folder}/">
<title>peerllm</title>
"""
"""A redirect would carry the cookie only if the link to the address stood on this server: `SameSite=Strict`."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Tab(AppService):
    """One tab's screens; over as soon as either side is, also if the program hangs."""

    async def run(self) -> None:
        await super().run()
        await self.remote_close()

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(_QUIT_S):
                await super().stop()
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class WebTerminal(Server):
    """textual-serve 1.1, whose private `_make_app` is where a middleware can be put before all of its routes."""

    def __init__(self, command: Sequence[str], port: int, *, most_tabs: int = MOST_TABS) -> None:
        """`command` runs the screens of one tab."""
        super().__init__(_shell(command), host="127.0.0.1", port=port, title="peerllm")
        self.gate = Gate(port)
        self.tabs = 0
        """Open now."""
        self._most_tabs = most_tabs
        self._since = time.monotonic()
        self._code_used = False

    async def run(self, listener: socket.socket, ready: Callable[[str], None]) -> None:
        """Serve until cancelled; `ready` is told the address that lets a browser in."""
        app = await self._make_app()
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            ready(self.gate.address)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def on_startup(self, app: web.Application) -> None:
        """Instead of a banner."""

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        if self.tabs >= self._most_tabs:
            raise web.HTTPServiceUnavailable(text=self._too_many)
        self.tabs += 1
        try:
            return await self._show_tab(request)
        finally:
            self.tabs -= 1

    async def _show_tab(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S)
        await websocket.prepare(request)

        async def close() -> None:
            await websocket.close()

        tab = Tab(
            self.command,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=close,
            download_manager=self.download_manager,
        )
        try:
            await tab.start(to_int(request.query.get("width", ""), 80), to_int(request.query.get("height", ""), 24))
            await self._process_messages(websocket, tab)
        finally:
            await tab.stop()
            await websocket.close()
        return websocket

    async def _make_app(self) -> web.Application:
        outer = web.Application(middlewares=[self._guarded])
        outer.router.add_get("/", self._enter)
        outer.add_subapp(self.gate.folder, await super()._make_app())
        return outer

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self.gate.refusal(_asked(request))
        if refusal is not None:
            return _refused(refusal)
        if request.path == f"{self.gate.folder}/" and self.tabs >= self._most_tabs:
            return _refused(Refusal(503, self._too_many))
        response = await handler(request)
        if not response.prepared:
            response.headers.update(self._headers)
        return response

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        age_s = time.monotonic() - self._since
        refusal = self.gate.admits(request.query.get("token", ""), age_s=age_s, used=self._code_used)
        if refusal is not None:
            return _refused(refusal)
        self._code_used = True
        page = _ENTRANCE.format(folder=self.gate.folder)
        return web.Response(text=page, content_type="text/html", headers={"Set-Cookie": self.gate.set_cookie})

    @property
    def _too_many(self) -> str:
        return f"{self._most_tabs} tabs are open, each a program of its own; close one of them"

    @property
    def _headers(self) -> dict[str, str]:
        return {
            # the page as shipped has scripts in its markup, and asks for a font from elsewhere, which this stops
            "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'; "
            f"connect-src 'self' ws://127.0.0.1:{self.port}; base-uri 'none'; form-action 'none'",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }


def serve_terminal(command: Sequence[str], ready: Callable[[str], None], *, port: int = PORT) -> None:
    """Until this process is interrupted or told to end; raises `PeerllmError` if no port is free."""
    with listening(port) as listener:
        terminal = WebTerminal(command, listener.getsockname()[1])
        asyncio.run(_until_ended(terminal.run(listener, ready)))


def listening(port: int) -> socket.socket:
    """On loopback alone, at that port or the next one that is free; 0 takes any."""
    for candidate in range(port, port + _PORTS_TRIED):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", candidate))
    raise PeerllmError(f"none of the ports {port} to {port + _PORTS_TRIED - 1} is free on 127.0.0.1")


async def _until_ended(serving: Awaitable[None]) -> None:
    task = asyncio.ensure_future(serving)
    with contextlib.suppress(NotImplementedError):  # Windows ends processes without a signal
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _asked(request: web.Request) -> Asked:
    return Asked(
        path=request.path,
        hosts=request.headers.getall("Host", []),
        origins=request.headers.getall("Origin", []),
        cookie=cookie_in(dict(request.cookies)),
        is_websocket="websocket" in request.headers.get("Upgrade", "").lower(),
    )


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, text=f"{refusal.reason}\n", headers={"Cache-Control": "no-store"})


def _shell(command: Sequence[str]) -> str:
    """textual-serve starts it through a shell."""
    return subprocess.list2cmdline(command) if sys.platform == "win32" else f"exec {shlex.join(command)}"
