"""``/control`` of lending: yes, no and pause, the limits, what was decided and what was given."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from peerllm.api.node_services import NodeServices
from peerllm.errors import UsageError

LONGEST_PAUSE_S = 366 * 86400.0


class ShareBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    on: bool
    finish: bool = False


class PauseBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    until: float = Field(ge=0, allow_inf_nan=False)


class LimitsBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    values: dict[str, bool | int | float | str | list[str] | None] = Field(max_length=64)


def lending_routes(node: NodeServices) -> APIRouter:
    """The routes; who may use them is decided before (`peerllm.api.guard`)."""
    routes = APIRouter(prefix="/control", tags=["control"])
    guest = node.guest

    @routes.post("/share", status_code=202)
    async def share(body: ShareBody) -> dict[str, Any]:
        await guest.share(body.on, finish=body.finish)
        return {"on": body.on}

    @routes.post("/pause", status_code=202)
    async def pause(body: PauseBody) -> dict[str, Any]:
        if body.until > time.time() + LONGEST_PAUSE_S:
            raise UsageError("a pause lasts a year at most; `peerllm share off` ends lending")
        await guest.pause(body.until)
        return {"until": body.until}

    @routes.get("/guest")
    async def status() -> dict[str, Any]:
        return guest.status().to_json()

    @routes.get("/limits")
    async def limits() -> dict[str, Any]:
        return {"limits": [limit.to_json() for limit in guest.limits()]}

    @routes.post("/limits", status_code=202)
    async def set_limits(body: LimitsBody) -> dict[str, Any]:
        await guest.set_limits(body.values)
        return {"limits": [limit.to_json() for limit in guest.limits()]}

    @routes.get("/ledger")
    async def ledger(days: Annotated[int, Query(ge=1, le=366)] = 1) -> dict[str, Any]:
        names = {peer.peer_id: peer.name for peer in node.peers()}
        rows = await guest.ledger(days)
        return {"rows": [replace(row, name=names.get(row.peer_id, row.name)).to_json() for row in rows]}

    return routes
