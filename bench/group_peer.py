"""One member of a tensor-parallel group, or one peer alone, as a process: `python -m bench.group_peer`, driven by JSON.

    with group_processes(model, GroupSetting(weights=(1, 1))) as group:
        burst = group.burst(24)  # decodes greedily: a real token loop with embedding and head at the lead

Members talk over TCP on loopback with the real exchange, its frames sealed; `link` puts a slow link between every two
of them. Only the agreement on keys is left out, so the keys are known to everybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.links import LinkSpeed, slow_links

PROMPT_TOKENS = 64
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class GroupSetting:
    """Who shares the blocks, and how sums travel; one weight is one peer that holds whole blocks."""

    weights: tuple[float, ...]
    form: str = "float32"
    threads: int = 1
    spin_us: float | None = None
    """None: the exchange's own default."""

    @property
    def members(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Burst:
    """Of consecutive decode steps: each one's milliseconds in the blocks, and in embedding and head."""

    block_ms: list[float]
    end_ms: list[float]
    sent_bytes: float
    """By one member per token."""
    waited_ms: float
    """Per token: this long the lead had sent its parts and waited for the others'."""
    tokens: list[int]


class GroupProcesses:
    """A group whose lead decodes when it is told to; between bursts all of its processes sleep."""

    def __init__(self, lead: subprocess.Popen[str]) -> None:
        self._lead = lead

    def burst(self, tokens: int) -> Burst:
        """Go on from the prompt for so many tokens; always the same ones."""
        _say(self._lead, {"burst": tokens})
        return Burst(**_hear(self._lead))


@contextmanager
def group_processes(
    store: Path, model: Path, setting: GroupSetting, link: LinkSpeed | None = None
) -> Iterator[GroupProcesses]:
    """Start the members and connect them; they end with the context."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_process()) for _ in range(setting.members)]
        for index, process in enumerate(processes):
            _say(process, {"store": str(store), "model": str(model), "index": index, **asdict(setting)})
        ports = [_hear(process)["port"] for process in processes]
        if link is not None:
            ports = stack.enter_context(slow_links(ports, link)).ports
        for process in processes:
            _say(process, {"ports": list(ports)})
        _hear(processes[0])
        yield GroupProcesses(processes[0])


@contextmanager
def _process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.group_peer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _say(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"a member of the group ended with {process.wait()}")
    return json.loads(line)


# The member's process.


@dataclass(frozen=True)
class _Channel:
    socket: socket.socket
    send_key: bytes
    receive_key: bytes


def _main() -> None:
    from peerllm.engine.threads import limit_spinning

    limit_spinning()
    given = json.loads(sys.stdin.readline())
    index = given["index"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _print({"port": listener.getsockname()[1]})
        ports = json.loads(sys.stdin.readline())["ports"]
        channels = _connect(listener, ports, index)
    setting = GroupSetting(tuple(given["weights"]), given["form"], given["threads"], given["spin_us"])
    _serve(Path(given["store"]), given["model"], index, setting, channels)


def _connect(listener: socket.socket, ports: Sequence[int], index: int) -> list[_Channel | None]:
    """To the members before this one; those behind it come by themselves, and say who they are."""
    sockets: list[socket.socket | None] = [None] * len(ports)
    for member in range(index):
        connected = socket.create_connection(("127.0.0.1", ports[member]))
        connected.sendall(bytes([index]))
        sockets[member] = connected
    for _ in range(index + 1, len(ports)):
        accepted, _address = listener.accept()
        sockets[accepted.recv(1)[0]] = accepted
    return [None if one is None else _channel(one, index, member) for member, one in enumerate(sockets)]


def _channel(connected: socket.socket, own: int, other: int) -> _Channel:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keys = [hashlib.sha256(f"bench {pair}".encode()).digest() for pair in ((own, other), (other, own))]
    return _Channel(connected, *keys)


def _serve(store: Path, model: str, index: int, setting: GroupSetting, channels: Sequence[_Channel | None]) -> None:
    from peerllm.engine.exchange import SPIN_US, Exchange
    from peerllm.engine.group_span import GroupSpan, follow
    from peerllm.engine.load import load_ends, load_slice, load_span
    from peerllm.errors import GroupBroken
    from peerllm.model.slice_gguf import block_shape
    from peerllm.model.store import ModelStore
    from peerllm_swarm.group_traffic import SyncForm
    from peerllm_swarm.slices import slices_for

    stored = ModelStore(store).open(model)
    span, hidden = stored.spec.whole, stored.spec.hidden
    room = {"slots": 1, "context_tokens": CONTEXT_TOKENS, "threads": setting.threads}
    if setting.members == 1:
        engine = load_span(stored, span, engine="llama", **room)
        exchange = None
    else:
        part = load_slice(stored, span, slices_for(block_shape(stored), setting.weights), index, engine="llama", **room)
        spin_us = SPIN_US if setting.spin_us is None else setting.spin_us
        exchange = Exchange(
            channels, index, SyncForm(setting.form), values=48 * hidden, deadline_s=60.0, spin_us=spin_us
        )
        if index:
            with contextlib.suppress(GroupBroken):  # the lead is killed when nobody asks any more
                follow(part, exchange, hidden)
            return
        engine = GroupSpan.assemble(part, exchange, hidden, timeout_s=120.0)
    _Lead(engine, load_ends(stored, engine="llama", threads=setting.threads), exchange).run()


class _Lead:
    """Decodes in bursts, always from the same prompt."""

    def __init__(self, engine: Any, ends: Any, exchange: Any) -> None:
        self._engine, self._ends, self._exchange = engine, ends, exchange
        self._slot = engine.open()
        prompt = [(7 * place + 3) % 300 for place in range(PROMPT_TOKENS)]
        self._step(prompt, 0)

    def run(self) -> None:
        _print({"ready": True})
        for line in sys.stdin:
            _print(asdict(self._burst(json.loads(line)["burst"])))

    def _burst(self, count: int) -> Burst:
        self._engine.rewind(self._slot, PROMPT_TOKENS)
        before = self._exchange.traffic if self._exchange else None
        token, tokens = 1, []
        blocks, ends = [], []
        for place in range(count):
            token, block_s, end_s = self._step([token], PROMPT_TOKENS + place)
            tokens.append(token)
            blocks.append(1000 * block_s)
            ends.append(1000 * end_s)
        sent, waited_s = 0.0, 0.0
        if before is not None:
            after = self._exchange.traffic
            sent = (after.sent_bytes - before.sent_bytes) / count
            waited_s = (after.waited_s - before.waited_s) / count
        return Burst(blocks, ends, sent, 1000 * waited_s, tokens)

    def _step(self, tokens: Sequence[int], position: int) -> tuple[int, float, float]:
        """The likeliest next token; seconds in the blocks and in the ends."""
        from peerllm.engine.span_engine import Rows

        span = self._engine.info.span
        started = time.perf_counter()
        hidden = self._ends.embed(tokens)
        embedded = time.perf_counter()
        [output] = self._engine.step([Rows(self._slot, position, hidden, span.start, span.end)])
        computed = time.perf_counter()
        likeliest = int(self._ends.logits(output[-1:])[0].argmax())
        ended = time.perf_counter()
        return likeliest, computed - embedded, embedded - started + ended - computed


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    _main()
