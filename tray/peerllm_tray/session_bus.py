"""Calls on the session bus, each with a deadline."""

from __future__ import annotations

import asyncio
from typing import Any

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

WATCHER = "org.kde.StatusNotifierWatcher"
"""Who shows StatusNotifierItems registers them under this name, on GNOME and Xfce as well as on KDE."""

_BUS = "org.freedesktop.DBus"
_CALL_S = 5.0


class BusRefused(Exception):
    """The session bus, or who was called, answered with an error or not in time."""


async def connect() -> MessageBus:
    """This user's session bus; raises `BusRefused` where there is none."""
    try:
        async with asyncio.timeout(_CALL_S):
            return await MessageBus().connect()
    except (OSError, EOFError, ValueError, DBusFastError) as error:  # EOFError: it hung up on us
        raise BusRefused(f"no session bus: {error}") from error


async def call(
    bus: MessageBus, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any
) -> list[Any]:
    """What the method answers; raises `BusRefused`."""
    message = Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(body)
    )
    try:
        async with asyncio.timeout(_CALL_S):
            answer = await bus.call(message)
    except (OSError, EOFError) as error:
        raise BusRefused(f"{interface}.{member}: {error or 'no answer'}") from error
    if answer is None or answer.message_type is MessageType.ERROR:
        raise BusRefused(f"{interface}.{member}: {answer.body if answer else 'no answer'}")
    return answer.body


async def has_owner(bus: MessageBus, name: str) -> bool:
    """Whether somebody on the bus has that name."""
    return bool((await call(bus, _BUS, "/org/freedesktop/DBus", _BUS, "NameHasOwner", "s", name))[0])


async def follow_owner(bus: MessageBus, name: str) -> asyncio.Event:
    """Set whenever that name has a new owner."""
    appeared = asyncio.Event()

    def handle(message: Message) -> None:
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            changed, _, owner = message.body
            if changed == name and owner:
                appeared.set()

    rule = f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{name}'"
    bus.add_message_handler(handle)
    await call(bus, _BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", rule)
    return appeared
