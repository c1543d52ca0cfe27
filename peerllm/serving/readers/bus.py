"""D-Bus, asked from a thread of its own: properties and calls, each with a deadline, and signals."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from peerllm.serving.readers.source import Unreadable

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

T = TypeVar("T")

DEADLINE_S = 2.0

PROPERTIES = "org.freedesktop.DBus.Properties"

_NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")


class BusThread:
    """The event loop that D-Bus connections live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._joined: tuple[Bus, ...] = ()
        self._thread = threading.Thread(target=self._run, name="read D-Bus", daemon=True)
        self._thread.start()

    def ask(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Future[T]]:
        """Ask on this thread, for at most `DEADLINE_S`."""

        async def in_time() -> T:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await ask()
            except TimeoutError as error:
                raise Unreadable("does not answer") from error

        def start() -> Future[T]:
            if self._closed:
                closed: Future[T] = Future()
                closed.set_exception(Unreadable("closed"))
                return closed
            return asyncio.run_coroutine_threadsafe(in_time(), self._loop)

        return start

    def run(self, work: Callable[[], None]) -> None:
        """Soon, on this thread; not after it was closed."""
        if not self._closed:
            self._loop.call_soon_threadsafe(work)

    def close(self, *buses: Bus) -> None:
        """Leave the buses and end the thread."""
        self._joined = buses
        self.run(self._loop.stop)
        self._closed = True
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_end(self._joined))
        self._loop.close()


class Bus:
    """One bus, joined when it is first asked and again after it went away. Its methods belong to its `BusThread`."""

    def __init__(self, name: str, address: str) -> None:
        """`name` is what people call it: "system bus"."""
        self._name = name
        self._address = address
        self._bus: MessageBus | None = None
        self._joining = asyncio.Lock()
        self._matches: list[tuple[str, Callable[[Message], None]]] = []

    def watch(self, rule: str, heard: Callable[[Message], None]) -> None:
        """Whenever the bus is joined, ask for the signals of a match rule; `heard` gets every signal, asked for or not.

        Source: D-Bus specification, "Match Rules".
        """
        self._matches.append((rule, heard))

    async def property(self, service: str, path: str, interface: str, name: str) -> Any:
        return (await self.call(service, path, PROPERTIES, "Get", "ss", [interface, name])).body[0].value

    async def properties(self, service: str, path: str, interface: str) -> dict[str, Any]:
        """All of one interface."""
        reply = await self.call(service, path, PROPERTIES, "GetAll", "s", [interface])
        return {name: variant.value for name, variant in reply.body[0].items()}

    async def call(
        self, service: str, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> Message:
        """Call a method of a service that runs; none is started for being looked at.

        Raises:
            Unreadable: no bus, no such service, or an error from it.
        """
        from dbus_fast import Message, MessageFlag, MessageType

        bus = await self._joined()
        reply = await bus.call(
            Message(
                destination=service,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body or [],
                flags=MessageFlag.NO_AUTOSTART,
            )
        )
        if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
            raise Unreadable(_refusal(service, reply))
        return reply

    async def leave(self) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.disconnect()
            async with asyncio.timeout(DEADLINE_S):
                await self._bus.wait_for_disconnect()
        self._bus = None

    async def _joined(self) -> MessageBus:
        async with self._joining:
            if self._bus is None or not self._bus.connected:
                self._bus = await self._join()
            return self._bus

    async def _join(self) -> MessageBus:
        from dbus_fast import Message
        from dbus_fast.aio import MessageBus

        try:
            bus = await MessageBus(self._address, negotiate_unix_fd=True).connect()
        except Exception as error:  # dbus-fast raises many kinds here, its own, OSError and ValueError
            raise Unreadable(f"no {self._name}") from error
        for rule, heard in self._matches:
            bus.add_message_handler(heard)
            match = Message("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "AddMatch", signature="s", body=[rule])
            await bus.call(match)
        return bus


async def _end(joined: Iterable[Bus]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, *(bus.leave() for bus in joined), return_exceptions=True)


def _refusal(service: str, reply: Message | None) -> str:
    if reply is None or reply.error_name in _NOBODY:
        return f"no {service}"
    return f"{service}: {reply.error_name}"
