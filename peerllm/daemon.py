"""One daemon per home: lock, local API first, then the swarm; and in reverse at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import peerllm
from peerllm.api.app import build_app
from peerllm.api.response_store import ResponseStore
from peerllm.api.server import ApiServer
from peerllm.config import Config
from peerllm.config_sources import LoadedConfig
from peerllm.engine.threads import limit_spinning
from peerllm.errors import AlreadyRunning
from peerllm.file_lock import lock_file
from peerllm.local import rendezvous
from peerllm.local.rendezvous import DaemonAddress
from peerllm.local.schema import ApiStatus
from peerllm.locations import Locations
from peerllm.node import Node
from peerllm.serving.loaded_span import LoadEngine

log = logging.getLogger(__name__)


def run(loaded: LoadedConfig, load_engine: LoadEngine | None = None) -> int:
    """Serve until a signal or `peerllm down`; the exit code.

    `load_engine` makes the engine of every span served, if not the usual one is to.
    """
    limit_spinning()
    locations = Locations.of()
    locations.create()
    with _only_daemon(locations), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(loaded, locations, load_engine))


async def _serve(loaded: LoadedConfig, locations: Locations, load_engine: LoadEngine | None) -> int:
    config, node = loaded.config, Node(loaded, locations, load_engine)
    token = rendezvous.create_token(locations)
    responses = _responses(config, locations)
    try:
        app_for = partial(build_app, node, config, token, responses=responses)
        async with ApiServer(config.api, app_for, drain_s=2.0) as server:
            node.listens_on(ApiStatus(server.host, server.port))
            rendezvous.publish(locations, DaemonAddress(server.host, server.port, os.getpid(), peerllm.__version__))
            log.info("daemon started pid=%d port=%d version=%s", os.getpid(), server.port, peerllm.__version__)
            with _signals(node):
                await node.run()
    finally:
        rendezvous.withdraw(locations)
        await node.close()
    log.info("daemon stopped")
    return 0


def _responses(config: Config, locations: Locations) -> ResponseStore | None:
    """Where responses are stored, if their owner wants that."""
    if not config.api.store_responses:
        return None
    store = ResponseStore(locations.responses_dir)
    store.sweep(time.time())
    return store


@contextlib.contextmanager
def _signals(node: Node) -> Iterator[None]:
    """SIGTERM and Ctrl-C drain and stop; a second one stops at once."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.request_stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _only_daemon(locations: Locations) -> Iterator[None]:
    """Hold the home's lock; the system drops it when this process ends, however it ends."""
    with locations.lock_file.open("a+") as lock:
        if not lock_file(lock):
            raise AlreadyRunning(
                f"a daemon already runs for {locations.state_dir}; see peerllm status, or stop it with peerllm down"
            )
        yield


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is: hivemind brings it, and messages take less time in it (ADR 0005)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
