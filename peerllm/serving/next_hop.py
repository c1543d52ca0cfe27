"""The way on: a push stream from a session at this hop to the same session at the next one."""

from __future__ import annotations

import asyncio

from peerllm.errors import BadFrame, Refused, WireError
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Attach, Attached, RefusalCode, SessionId
from peerllm.wire.transport import PUSH_PROTOCOL, Transport
from peerllm_swarm.span import PeerId


async def linked(
    transport: Transport, within_s: float, session: SessionId, behind: PeerId, addresses: tuple[str, ...]
) -> LiveStream:
    """A stream to the hop behind, attached to the session there; raises `Refused` if that is not done in time."""
    try:
        async with asyncio.timeout(within_s):
            return await _attached(transport, within_s, session, behind, addresses)
    except (WireError, TimeoutError) as error:
        raise Refused(RefusalCode.UNREACHABLE_NEXT, f"cannot reach the next hop {behind}: {error}") from error


async def _attached(
    transport: Transport, within_s: float, session: SessionId, behind: PeerId, addresses: tuple[str, ...]
) -> LiveStream:
    stream = await transport.open_stream(behind, addresses, PUSH_PROTOCOL, within_s)
    try:
        await stream.send(Attach(session))
        answer = await stream.receive()
        if not isinstance(answer, Attached):
            raise BadFrame(f"it answered {type(answer).__name__} to Attach")
    except BaseException:
        await stream.close()  # a stream that is merely forgotten pings for ever
        raise
    return stream
