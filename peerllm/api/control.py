"""``/control``: the daemon's own API, for the clients in `peerllm.local`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from peerllm.api.event_stream import EventStream, frame
from peerllm.api.hang_up import items_of
from peerllm.api.node_services import NodeServices
from peerllm.config import Config, settings


class JoinBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    address: str = Field(min_length=1, max_length=1024)


def control_routes(node: NodeServices, config: Config, closing: asyncio.Event) -> APIRouter:
    """The routes; event streams end at `closing`, for they would hold the server open."""
    routes = APIRouter(prefix="/control", tags=["control"])

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        return node.status().to_json()

    @routes.get("/peers")
    async def peers() -> dict[str, Any]:
        return {"peers": [peer.to_json() for peer in node.peers()]}

    @routes.get("/swarm")
    async def swarm() -> dict[str, Any]:
        return node.swarm().to_json()

    @routes.get("/config")
    async def configuration() -> dict[str, Any]:
        return _without_secrets(config)

    @routes.get("/log")
    async def log_lines(lines: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict[str, Any]:
        return {"lines": await node.log_lines(lines)}

    @routes.get("/events", response_model=None)
    async def events() -> Response:
        return EventStream(_event_frames(node), closing=closing)

    @routes.post("/join", status_code=202)
    async def join(body: JoinBody) -> dict[str, Any]:
        return {"swarm": await node.join(body.address)}

    @routes.post("/leave", status_code=202)
    async def leave() -> dict[str, Any]:
        return {"swarm": await node.leave()}

    @routes.post("/stop", status_code=202)
    async def stop() -> dict[str, Any]:
        await node.stop()
        return {"stopping": True}

    return routes


async def _event_frames(node: NodeServices) -> AsyncGenerator[bytes]:
    async with aclosing(items_of(node.events())) as events:
        async for event in events:
            yield frame(event.to_json(), event.kind)


def _without_secrets(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = asdict(config)
    for setting in settings():
        if setting.secret:
            values[setting.section][setting.name] = "(set)" if values[setting.section][setting.name] else ""
    return values
