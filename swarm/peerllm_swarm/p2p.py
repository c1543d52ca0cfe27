"""The libp2p daemon of this peer: start it, reach others through it, leave nothing of it behind.

hivemind is imported inside the functions: chat-only clients do without it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false, reportAttributeAccessIssue=false
# hivemind is partly annotated (what is None until started has no type), and its control client has no public name.

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peerllm_swarm.daemon_command import with_options
from peerllm_swarm.dial_bytes import address_bytes
from peerllm_swarm.errors import Unreachable
from peerllm_swarm.host_options import HostOptions
from peerllm_swarm.identity import Identity
from peerllm_swarm.lean_hivemind import import_lean
from peerllm_swarm.multiaddress import Multiaddress
from peerllm_swarm.span import PeerId

if TYPE_CHECKING:
    from hivemind.p2p import P2P

    from peerllm_swarm.gate import Gate
    from peerllm_swarm.gated_p2p import GatedP2P

logger = logging.getLogger(__name__)

PORTS_TRIED = 32
MAX_VISIBLE_ADDRESSES = 8

_SOCKET_DIRECTORY = Path("/tmp")  # fixed by hivemind
_SOCKET_MIN_AGE_S = 60.0  # younger ones may belong to a daemon that has not begun to listen
_STOP_TIMEOUT_S = 5.0
_LAST_WORDS_S = 0.05
"""For connections that end with the daemon: what it had only just opened is accepted, and closed, before the server."""

_UNSPECIFIED = {"0.0.0.0": "::"}


async def start_p2p(
    identity: Identity,
    *,
    port: int,
    host: str = "0.0.0.0",
    options: HostOptions = HostOptions(),  # noqa: B008 - frozen
    gate: Gate | None = None,
) -> GatedP2P:
    """Start p2pd with this identity, listening on `port` or the next free one (0: any); `stop_p2p` ends it.

    It joins nobody, so nothing dead can keep it from starting. ``0.0.0.0`` means IPv6 as well where there is any.
    Only those whom `gate` admits are served and called; without one everybody is.

    Raises:
        Unreachable: the daemon does not start, or none of the ports is free.
    """
    await asyncio.to_thread(import_lean, "hivemind.p2p")  # takes a moment: the loop goes on meanwhile
    from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
    from hivemind.utils.logging import use_hivemind_log_handler

    from peerllm_swarm.gated_p2p import GatedP2P

    use_hivemind_log_handler("nowhere")  # its records still reach our handlers
    # With SO_REUSEPORT, libp2p's default, two daemons of one user share a port, and a dialler meets either of them.
    os.environ["LIBP2P_TCP_REUSEPORT"] = "true" if options.reuses_port else "false"
    # One core moves 400 MB/s and wakes up sooner than several do (docs/performance.md#where-a-tokens-time-goes).
    os.environ.setdefault("GOMAXPROCS", "1")
    _sweep_stale_sockets()
    hosts = _hosts(host)
    reason = f"ports {port} to {port + PORTS_TRIED - 1} are taken"
    for candidate in _candidate_ports(hosts, port):
        try:
            p2p = await _whole(
                with_options(GatedP2P, options).start(
                    identity_path=str(identity.key_file),
                    check_if_identity_free=False,  # cannot read Ed25519 files
                    host_maddrs=[str(Multiaddress.of(name, candidate)) for name in hosts],
                    nat_port_map=False,
                    **options.daemon_options(),
                )
            )
        except P2PDaemonError as error:
            reason = str(error)
            if "address already in use" not in reason:  # taken between the probe and now: try the next
                break
            continue
        if candidate == 0 or _listens_on_all(p2p, hosts):
            if gate is not None:
                p2p.gate = gate
            return p2p
        await stop_p2p(p2p)  # another process took the port in one of the address families
    raise Unreachable(f"the libp2p daemon does not start: {reason}")


async def _whole(start: Coroutine[Any, Any, GatedP2P]) -> GatedP2P:
    """Let a start end before it is cancelled: hivemind forgets the process of one that is broken off."""
    starting = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait((starting,))
        if starting.exception() is None:
            await stop_p2p(starting.result())
        raise


async def stop_p2p(p2p: GatedP2P) -> None:
    """End the daemon and every task that serves it."""
    await p2p.close_gate()
    await _end_daemon(p2p)
    control = p2p._client.control
    owned: list[asyncio.Task[None] | None] = [
        *control._handler_tasks.values(),
        control._read_task,
        control._write_task,
        p2p._listen_task,
    ]
    for unanswered in (*control._handler_tasks.values(), *control._pending_calls.values()):
        unanswered.cancel()
    p2p._terminate()
    await asyncio.gather(*(task for task in owned if task is not None), return_exceptions=True)


async def _end_daemon(p2p: GatedP2P) -> None:
    """Before its tasks: what asyncio accepts while its server closes stays open for ever (python/cpython#109564)."""
    with contextlib.suppress(ProcessLookupError):
        p2p._child.terminate()
    if p2p._reader_task is not None:  # it and `communicate` cannot both read
        p2p._reader_task.cancel()
        await asyncio.wait((p2p._reader_task,))
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await p2p._child.communicate()
    except TimeoutError:
        p2p._child.kill()
        await p2p._child.communicate()
    await asyncio.sleep(_LAST_WORDS_S)


def is_alive(p2p: P2P) -> bool:
    """Whether the daemon process still runs; hivemind does not notice its end."""
    return p2p.is_alive and p2p._child.returncode is None


async def visible_addresses(p2p: P2P) -> tuple[str, ...]:
    """Where others may reach this peer now: multiaddrs without ``/p2p/``, those of a network before loopback.

    Loopback stays in, last: peers on one machine meet there when it has no network.
    """
    _, addresses = await p2p._client.identify()
    parsed = [address for text in addresses if (address := Multiaddress.try_parse(str(text))) is not None]
    parsed.sort(key=lambda address: (address.is_loopback, bool(address.relay), address.protocol != "ip4"))
    if len(parsed) > MAX_VISIBLE_ADDRESSES:
        loopback = [address for address in parsed if address.is_loopback][:1]
        parsed = parsed[: MAX_VISIBLE_ADDRESSES - len(loopback)] + loopback
    return tuple(str(address) for address in parsed)


async def connect(p2p: GatedP2P, peer_id: PeerId, addresses: Sequence[str], timeout_s: float) -> None:
    """Connect to a peer at any of its addresses, all tried at once; streams to it can be opened afterwards.

    Raises:
        Unreachable: none of them leads to this peer within the time.
    """
    failure = await dial(p2p, peer_id, addresses, timeout_s)
    if failure is not None:
        raise Unreachable(f"peer {peer_id} cannot be reached: {failure}")


async def dial(p2p: GatedP2P, peer_id: PeerId, addresses: Sequence[str], timeout_s: float) -> str | None:
    """Have the daemon connect; returns its explanation when that fails."""
    from hivemind.p2p import PeerID
    from hivemind.proto import p2pd_pb2

    parsed = (Multiaddress.try_parse(text) for text in addresses)
    usable = [address for address in parsed if address is not None and p2p.options.may_dial(address)]
    if not usable and p2p.options.lan_only:  # or it would dial what it has heard of the peer before
        return "swarm.lan_only is set, and no address on a local network is known"
    request = p2pd_pb2.Request(
        type=p2pd_pb2.Request.CONNECT,
        connect=p2pd_pb2.ConnectRequest(
            peer=PeerID.from_base58(peer_id).to_bytes(), addrs=[address_bytes(address) for address in usable]
        ),
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await _ask_daemon(p2p, request)
            writer.close()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s from {', '.join(map(str, usable)) or 'any known address'}"
    except Unreachable as error:
        return str(error)
    return None


async def open_stream(
    p2p: P2P, peer_id: PeerId, protocol: str, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw stream to a connected peer's handler of `protocol`; the caller closes the writer.

    Raises:
        Unreachable: the peer is gone, does not serve the protocol, or is silent for `timeout_s`.
    """
    from hivemind.p2p import PeerID
    from hivemind.proto import p2pd_pb2

    request = p2pd_pb2.Request(
        type=p2pd_pb2.Request.STREAM_OPEN,
        streamOpen=p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer_id).to_bytes(), proto=[protocol]),
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask_daemon(p2p, request)
    except TimeoutError as error:
        raise Unreachable(f"peer {peer_id} opens no {protocol} within {timeout_s:g} s") from error


async def _ask_daemon(p2p: P2P, request: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Like the calls of hivemind's control client, which leave their socket open when they fail or are cancelled."""
    from hivemind.p2p.p2p_daemon_bindings.utils import read_pbmsg_safe, write_pbmsg
    from hivemind.proto import p2pd_pb2

    response = p2pd_pb2.Response()
    try:
        reader, writer = await p2p._client.control.daemon_connector.open_connection()
    except OSError as error:
        raise Unreachable(f"the libp2p daemon does not answer ({error})") from error
    try:
        await write_pbmsg(writer, request)
        await read_pbmsg_safe(reader, response)
        if response.type != p2pd_pb2.Response.OK:
            raise Unreachable(" ".join(response.error.msg.split()))
    except (OSError, EOFError) as error:
        writer.close()
        raise Unreachable(f"the libp2p daemon broke off ({error})") from error
    except BaseException:
        writer.close()
        raise
    return reader, writer


def _hosts(host: str) -> list[str]:
    other = _UNSPECIFIED.get(host)
    return [host, other] if other is not None and _has_ipv6() else [host]


def _has_ipv6() -> bool:
    return socket.has_ipv6 and not _is_taken("::1", 0)


def _candidate_ports(hosts: Sequence[str], port: int) -> Iterator[int]:
    if port == 0:
        yield 0
        return
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        if not any(_is_taken(host, candidate) for host in hosts):
            yield candidate


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or connections in TIME_WAIT count as taken
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _listens_on_all(p2p: P2P, hosts: Sequence[str]) -> bool:
    """Whether p2pd got the port in every family: it starts as soon as one of its addresses works."""
    listening = {str(address).split("/")[1] for address in p2p._visible_maddrs}
    return all(Multiaddress.of(host, 0).protocol in listening for host in hosts)


def _sweep_stale_sockets() -> None:
    """Remove the control sockets of this user's daemons that were killed.

    hivemind gives both sockets of a daemon one name; only p2pd's is asked, as the other logs an error at every
    connection that says nothing.
    """
    for path in _SOCKET_DIRECTORY.glob("hivemind-p2p*-*.sock"):
        try:
            status = path.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _SOCKET_MIN_AGE_S:
                continue
            daemon = path.with_name(path.name.replace("hivemind-p2pclient-", "hivemind-p2pd-"))
            if not _accepts(daemon):
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("socket not swept path=%s: %s", path, error)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a full backlog, a slow daemon: somebody is there
            return True
    return True
