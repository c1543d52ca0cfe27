"""The tray as a StatusNotifierItem with a menu of our own, over one connection to the session bus."""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import os
from collections.abc import Callable

from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from peerllm_tray import dbus_menu, status_notifier
from peerllm_tray.actions import Action
from peerllm_tray.dbus_menu import DbusMenu
from peerllm_tray.icons import icon
from peerllm_tray.menu import Face
from peerllm_tray.menu_layout import MenuNumbers, menu_layout
from peerllm_tray.session_bus import WATCHER, BusRefused, call, connect, follow_owner
from peerllm_tray.state import NAME, Picture
from peerllm_tray.status_notifier import StatusNotifierItem
from peerllm_tray.surface import Notice

_LOG = logging.getLogger(__name__)

_NOTIFICATIONS = "org.freedesktop.Notifications"
_NOTIFY = (_NOTIFICATIONS, "/org/freedesktop/Notifications", _NOTIFICATIONS, "Notify", "susssasa{sv}i")
_NOTICE_PIXELS = 48
_NORMAL, _CRITICAL = 1, 2


class NotifierSurface:
    """Registers itself again whenever a panel comes back."""

    has_menu = True

    def __init__(self, face: Face, chosen: Callable[[Action], None], shown: Callable[[], None]) -> None:
        self._face = face
        self._chosen = chosen
        self._shown = shown
        self._numbers = MenuNumbers()
        self._item = StatusNotifierItem(face.state, self._clicked)
        self._menu = DbusMenu(chosen)
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._notices: asyncio.Queue[Notice] = asyncio.Queue()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except BusRefused as error:
                _LOG.warning("the icon ends: %s", error)

    def show(self, face: Face) -> None:
        self._soon(self._show, face)

    def notify(self, notice: Notice) -> None:
        self._soon(self._notices.put_nowait, notice)

    def close(self) -> None:
        self._soon(self._closing.set)

    def _soon(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has this icon
            self._loop.call_soon_threadsafe(what, *arguments)

    def _show(self, face: Face) -> None:
        self._face = face
        self._item.show(face.state)
        self._menu.show(menu_layout(face.menu, self._numbers))

    def _clicked(self) -> None:
        if self._face.click is not None:
            self._chosen(self._face.click)

    async def _serve(self) -> None:
        bus = await connect()
        try:
            self._menu.show(menu_layout(self._face.menu, self._numbers))
            bus.export(status_notifier.PATH, self._item)
            bus.export(dbus_menu.PATH, self._menu)
            await self._until_closed(bus)
        finally:
            bus.disconnect()

    async def _until_closed(self, bus: MessageBus) -> None:
        """One of these ends only if nothing can be shown any more."""
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._closing.wait(),
                bus.wait_for_disconnect(),
                self._keep_registered(bus),
                self._pass_on_notices(bus),
            )
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    _LOG.warning("the icon ends: %r", ended)

    async def _keep_registered(self, bus: MessageBus) -> None:
        name = f"org.kde.StatusNotifierItem-{os.getpid()}-1"
        await bus.request_name(name)
        appeared = await follow_owner(bus, WATCHER)
        appeared.set()
        while True:
            await appeared.wait()
            appeared.clear()
            try:
                await call(bus, WATCHER, "/StatusNotifierWatcher", WATCHER, "RegisterStatusNotifierItem", "s", name)
                self._shown()
            except BusRefused as error:
                _LOG.warning("the panel does not take the icon: %s", error)

    async def _pass_on_notices(self, bus: MessageBus) -> None:
        while True:
            notice = await self._notices.get()
            try:
                await call(bus, *_NOTIFY, *_notification(notice, self._face.state.picture))
            except BusRefused as error:
                _LOG.info("nothing shows notifications here: %s", error)


def _notification(notice: Notice, picture: Picture) -> tuple[object, ...]:
    """The body of Notify: servers read markup in the text."""
    hints = {"urgency": Variant("y", _CRITICAL if notice.urgent else _NORMAL), "image-data": _image(picture)}
    return NAME, 0, "", notice.title, html.escape(notice.text, quote=False), [], hints, -1


def _image(picture: Picture) -> Variant:
    drawn = icon(picture, _NOTICE_PIXELS)
    stride, has_alpha, bits, channels = 4 * drawn.width, True, 8, 4
    body = [drawn.width, drawn.height, stride, has_alpha, bits, channels, drawn.tobytes()]
    return Variant("(iiibiiay)", body)
