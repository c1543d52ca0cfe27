"""A desktop without a screen: a session bus, somebody who shows tray icons and notifications, a user who clicks."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any

import pytest
from dbus_fast import Message, NameFlag
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusInt32, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method
from dbus_fast.signature import Variant

from peerllm_tray.session_bus import WATCHER, call

_ITEM, _MENU = "org.kde.StatusNotifierItem", "com.canonical.dbusmenu"
_NOTIFICATIONS = "org.freedesktop.Notifications"
_WITHIN_S = 15.0
_POLL_S = 0.02

Texts = Annotated[list[str], DBusSignature("as")]
Hints = Annotated[dict[str, Variant], DBusSignature("a{sv}")]


@contextmanager
def session_bus(environment: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a bus of one's own, whose services run in that environment; skips without dbus-daemon."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon (apt: dbus)")
    command = ["dbus-daemon", "--session", "--nofork", "--print-address"]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=nowhere, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            yield daemon.stdout.readline().strip()
        finally:
            daemon.terminate()


@dataclass(frozen=True)
class MenuItem:
    number: int
    label: str
    properties: dict[str, Any]
    children: tuple["MenuItem", ...] = ()

    @property
    def visible(self) -> bool:
        return bool(self.properties.get("visible", True))

    @property
    def checked(self) -> bool:
        return self.properties.get("toggle-state") == 1

    @property
    def shown(self) -> "tuple[MenuItem, ...]":
        """Its children as a user sees them; separators have no label."""
        return tuple(child for child in self.children if child.visible)

    def at(self, *labels: str) -> "MenuItem":
        """The shown entry under these labels, in which * stands for anything."""
        item = self
        for label in labels:
            found = [child for child in item.shown if fnmatchcase(child.label, label)]
            if not found:
                raise LookupError(f"no {label!r} in {[child.label for child in item.shown]}")
            item = found[0]
        return item

    def has(self, *labels: str) -> bool:
        try:
            self.at(*labels)
        except LookupError:
            return False
        return True


class _Watcher(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(WATCHER)
        self.items: list[str] = []

    @dbus_method()
    def RegisterStatusNotifierItem(self, service: DBusStr) -> None:
        self.items.append(service)


class _Notifications(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(_NOTIFICATIONS)
        self.told: list[tuple[str, str]] = []

    @dbus_method()
    def Notify(
        self,
        program: DBusStr,
        replaces: DBusUInt32,
        icon: DBusStr,
        summary: DBusStr,
        body: DBusStr,
        actions: Texts,
        hints: Hints,
        expire_ms: DBusInt32,
    ) -> DBusUInt32:
        self.told.append((summary, body))
        return 1


@dataclass
class TrayHost:
    """What a panel sees of the last icon that was registered, and what its user can do with it."""

    bus: MessageBus
    watcher: _Watcher = field(default_factory=_Watcher)
    notifications: _Notifications = field(default_factory=_Notifications)
    signals: list[str] = field(default_factory=list)
    """Members of the signals that the icon sent, in order."""

    async def appear(self) -> None:
        await self.bus.request_name(WATCHER, NameFlag.DO_NOT_QUEUE)

    async def vanish(self) -> None:
        self.watcher.items.clear()
        await self.bus.release_name(WATCHER)

    async def icon(self) -> str:
        """The bus name of the icon, once one is registered."""
        await self.until(lambda: bool(self.watcher.items))
        return self.watcher.items[-1]

    async def property(self, name: str) -> Any:
        get = ("/StatusNotifierItem", "org.freedesktop.DBus.Properties", "Get", "ss")
        return (await call(self.bus, await self.icon(), *get, _ITEM, name))[0].value

    async def menu(self) -> MenuItem:
        layout = (await self.icon(), "/MenuBar", _MENU, "GetLayout", "iias", 0, -1, [])
        return _item((await call(self.bus, *layout))[1])

    async def menu_with(self, *labels: str) -> MenuItem:
        """That entry, once the menu shows it."""
        return await self.menu_until(lambda menu: menu.has(*labels), *labels)

    async def menu_until(self, holds: Callable[[MenuItem], bool], *labels: str) -> MenuItem:
        deadline = time.monotonic() + _WITHIN_S
        while not holds(menu := await self.menu()):
            if time.monotonic() > deadline:
                raise AssertionError(f"it never came; the menu has {[child.label for child in menu.shown]}")
            await asyncio.sleep(_POLL_S)
        return menu.at(*labels)

    async def choose(self, *labels: str) -> None:
        """Click an entry, once it is there."""
        item = await self.menu_with(*labels)
        await self.event(item.number, "clicked")

    async def event(self, number: int, kind: str) -> None:
        body = (number, kind, Variant("i", 0), 0)
        await call(self.bus, await self.icon(), "/MenuBar", _MENU, "Event", "isvu", *body)

    async def click_icon(self) -> None:
        await call(self.bus, await self.icon(), "/StatusNotifierItem", _ITEM, "Activate", "ii", 0, 0)

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"it never came: {holds}")
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def tray_host(address: str, *, present: bool = True) -> AsyncIterator[TrayHost]:
    """A host on that bus; without `present` it has yet to appear."""
    bus = await MessageBus(address).connect()
    host = TrayHost(bus)
    try:
        bus.export("/StatusNotifierWatcher", host.watcher)
        bus.export("/org/freedesktop/Notifications", host.notifications)
        await bus.request_name(_NOTIFICATIONS)
        bus.add_message_handler(lambda message: _note(host, message))
        match = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s")
        await call(bus, *match, f"type='signal',interface='{_MENU}'")
        if present:
            await host.appear()
        yield host
    finally:
        bus.disconnect()


def tray_environment(address: str, environment: dict[str, str]) -> dict[str, str]:
    """One with that bus and without any screen of the machine that runs the tests."""
    hidden = {"DISPLAY", "WAYLAND_DISPLAY"}
    return {name: value for name, value in environment.items() if name not in hidden} | {
        "DBUS_SESSION_BUS_ADDRESS": address,
        "XDG_CONFIG_HOME": os.path.join(environment["PEERLLM_HOME"], "xdg"),
        "XDG_CONFIG_DIRS": os.path.join(environment["PEERLLM_HOME"], "etc"),
    }


def _note(host: TrayHost, message: Message) -> None:
    if message.interface == _MENU and message.member in ("ItemsPropertiesUpdated", "LayoutUpdated"):
        host.signals.append(message.member)


def _item(node: Any) -> MenuItem:
    number, properties, children = node
    values = {name: variant.value for name, variant in properties.items()}
    below = tuple(_item(child.value) for child in children)
    return MenuItem(number, values.get("label", "").replace("__", "_"), values, below)
