"""The local API as one ASGI app: guard outside, ``/v1`` and our own routes inside, every error in one shape."""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import peerllm
from peerllm.api.answering import Answering
from peerllm.api.chat import chat_routes
from peerllm.api.completions import completion_routes
from peerllm.api.control import control_routes
from peerllm.api.embeddings import embedding_routes
from peerllm.api.errors import ApiError, api_error
from peerllm.api.guard import Doorkeeper, Guard
from peerllm.api.health import health_routes
from peerllm.api.invalid_body import invalid_body
from peerllm.api.lending import lending_routes
from peerllm.api.membership import membership_routes
from peerllm.api.metrics import Metrics, metrics_routes
from peerllm.api.models import model_routes
from peerllm.api.node_services import NodeServices
from peerllm.api.openapi import describe
from peerllm.api.placement import placement_routes
from peerllm.api.records import record_routes
from peerllm.api.requests import request_routes
from peerllm.api.response_store import ResponseStore
from peerllm.api.responses import response_routes
from peerllm.api.turns import Turns
from peerllm.api.web import web_routes
from peerllm.config import Config
from peerllm.errors import PeerllmError
from peerllm.generation.route_terms import RouteTerms


def build_app(
    node: NodeServices, config: Config, token: str, port: int, *, responses: ResponseStore | None = None
) -> FastAPI:
    """The app over a node.

    Args:
        token: the control token, needed for ``/control`` and ``/peerllm`` always.
        port: the one that is bound, which requests must name in `Host`.
        responses: where responses are kept whose askers want that; None refuses them.

    ``app.state.closing`` is an `asyncio.Event` that the server sets when it is about to end: event streams end with it.
    """
    app = FastAPI(
        title="peerllm",
        version=peerllm.__version__,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            PeerllmError: _told,
            TimeoutError: _told,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            Exception: _told,
        },
    )

    app.state.closing = closing = asyncio.Event()

    turns = Turns(config.asking.answers, config.asking.waiting)
    terms = RouteTerms(trust=config.asking.trust, deadline_s=config.asking.deadline_s or None)
    metrics = Metrics(node, turns)
    answering = Answering(node, turns, closing, terms, metrics)
    app.include_router(health_routes(node))
    app.include_router(metrics_routes(metrics))
    app.include_router(model_routes(node))
    app.include_router(chat_routes(answering))
    app.include_router(completion_routes(answering))
    app.include_router(embedding_routes(answering))
    app.include_router(response_routes(answering, responses))
    app.include_router(request_routes(node))
    app.include_router(record_routes(node))
    app.include_router(placement_routes(node))
    app.include_router(control_routes(node, config, closing))
    app.include_router(lending_routes(node))
    app.include_router(membership_routes(node))
    app.include_router(web_routes(token))
    describe(app)
    app.add_middleware(Guard, doorkeeper=Doorkeeper(port, token, config.api.key, config.api.origins))
    return app


async def _told(request: Request, error: Exception) -> Response:
    return api_error(error, request.url.path).response()


async def _http_error(request: Request, error: Exception) -> Response:
    failure = cast(HTTPException, error)
    told = {
        404: (f"there is no {request.url.path} here", "unknown_url"),
        405: (f"{request.method} is not what this path takes", "method_not_supported"),
    }
    message, code = told.get(failure.status_code, (str(failure.detail), None))
    return ApiError(failure.status_code, message, code, headers=dict(failure.headers or {})).response()


async def _invalid(_: Request, error: Exception) -> Response:
    return invalid_body(cast(RequestValidationError, error).errors()[0]).response()
