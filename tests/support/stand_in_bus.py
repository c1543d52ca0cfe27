"""A private D-Bus daemon, and services on it that answer as those of a desktop would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

_LIMIT_S = 20.0


@contextlib.contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """The address of a bus that runs until the end; its activatable services are those in `folder`."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed (apt install dbus)")
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(services=folder))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout is not None
        yield daemon.stdout.readline().strip()
    finally:
        daemon.kill()
        daemon.communicate()


class StandInServices:
    """One connection that owns names and answers for any path: properties by (path, interface), methods by name."""

    def __init__(self, address: str) -> None:
        from dbus_fast import Variant

        self.properties: dict[tuple[str, str], dict[str, Variant]] = {}
        self.methods: dict[str, tuple[str, list[Any]]] = {}  # member -> signature and body of the answer
        self.calls: list[str] = []
        self.inhibitors: list[int] = []  # our ends of the pipes given as locks
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self._bus = self._wait(self._join(address))
        except BaseException:
            self._end()
            raise

    def own(self, *names: str) -> None:
        for name in names:
            self._wait(self._bus.request_name(name))

    def give_up(self, name: str) -> None:
        """The service vanishes."""
        self._wait(self._bus.release_name(name))

    def signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        from dbus_fast import Message

        async def send() -> None:
            await self._bus.send(Message.new_signal(path, interface, member, signature, body))

        self._wait(send())

    def held_locks(self) -> int:
        """How many locks somebody still holds: the other ends of their pipes are open."""
        return sum(_is_open(fd) for fd in self.inhibitors)

    def close(self) -> None:
        async def leave() -> None:
            self._bus.disconnect()
            await self._bus.wait_for_disconnect()

        self._wait(leave())
        self._end()
        for fd in self.inhibitors:
            os.close(fd)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _join(self, address: str) -> Any:
        from dbus_fast.aio import MessageBus

        bus = await MessageBus(address, negotiate_unix_fd=True).connect()
        bus.add_message_handler(self._answer)
        return bus

    def _answer(self, message: Any) -> Any:
        from dbus_fast import Message, MessageType

        if message.message_type is not MessageType.METHOD_CALL:
            return None
        self.calls.append(message.member)
        if message.member in ("Get", "GetAll"):
            known = self.properties.get((message.path, message.body[0]))
            if known is None:
                return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "no such object")
            if message.member == "GetAll":
                return Message.new_method_return(message, "a{sv}", [known])
            return Message.new_method_return(message, "v", [known[message.body[1]]])
        if message.member == "Inhibit":
            ours, theirs = os.pipe()
            self.inhibitors.append(ours)
            self._giving = self._loop.create_task(self._give(message, theirs))
            return True
        if message.member in self.methods:
            return Message.new_method_return(message, *self.methods[message.member])
        return None

    async def _give(self, message: Any, lock: int) -> None:
        """Once it is sent, the one who asked has a copy of his own."""
        from dbus_fast import Message

        await self._bus.send(Message.new_method_return(message, "h", [0], unix_fds=[lock]))
        os.close(lock)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT_S)


def _is_open(fd: int) -> bool:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1) != b""
    except BlockingIOError:
        return True
