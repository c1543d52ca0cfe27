"""Where streams of askers and of hops before this one arrive: at the span that is served, or they are turned away."""

from __future__ import annotations

from collections.abc import Callable

from peerllm.serving.contribution import Phase
from peerllm.serving.spans_in_memory import SpansInMemory
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import RefusalCode, Refused
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Transport


class Reception:
    """Of one contribution; `phase` is the one that it is in."""

    def __init__(self, spans: SpansInMemory, phase: Callable[[], Phase]) -> None:
        self._spans = spans
        self._phase = phase

    async def open(self, transport: Transport) -> None:
        """Take streams from now on."""
        await transport.serve(SESSION_PROTOCOL, self._session)
        await transport.serve(PUSH_PROTOCOL, self._push)

    async def _session(self, stream: LiveStream) -> None:
        if self._spans.served is None or self._phase() in (Phase.WARMING, Phase.PAUSED):
            await self._turn_away(stream)
        else:
            await self._spans.served.handler.serve_session(stream)

    async def _push(self, stream: LiveStream) -> None:
        if self._spans.served is None:
            await self._turn_away(stream)
        else:
            await self._spans.served.handler.serve_push(stream)

    async def _turn_away(self, stream: LiveStream) -> None:
        phase = self._phase()
        if phase is Phase.PAUSED:  # why is its owner's business
            await stream.send(Refused(RefusalCode.DRAINING, "this peer is paused"))
        else:
            await stream.send(Refused(RefusalCode.LOADING, f"no span is served here now ({phase})", retry_after_s=1.0))
