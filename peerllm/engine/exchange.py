"""The all-reduce of a tensor-parallel group: every member's partial sums become the same sum on all of them.

2 to 8 members hold connected sockets to one another. Where numba is installed an exchange is machine code from the
first byte to the last: it seals, sends, waits in `poll` after a short spin, opens and adds, without Python and its
GIL. Elsewhere Python does the same with the same bytes. Whatever goes wrong is the end of the group: `GroupBroken`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerllm.engine import exchange_layout as layout
from peerllm.engine.exchange_interpreted import all_reduce
from peerllm.engine.exchange_layout import COMMAND, Outcome
from peerllm.engine.sealed_link import Channel, Cipher, Context, SealedLink
from peerllm.engine.sync_form import QUANTUM, by_parts_from
from peerllm.errors import GroupBroken
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.slices import MOST_MEMBERS

DEADLINE_S = 2.5
"""For one exchange: the slowest member's half of a block, and the bytes' way."""

SPIN_US = 250.0
"""So long a member looks again and again before it sleeps in `poll`: waking up takes about 50 us, and the others' parts
are mostly there sooner, on a LAN of 0.3 ms round trip too. Waits longer than that halve the next spin, down to none."""

_FUNCTION = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 4)

_REASONS = {
    Outcome.SILENT: "was silent for longer than {deadline_s:g} s",
    Outcome.GONE: "is gone",
    Outcome.FORGED: "sent what does not open: not its key, or out of step",
    Outcome.OUT_OF_STEP: "sent a frame of another length: it is out of step",
    Outcome.UNEVEN: "is asked for values that are no whole quanta of 32, for Q80",
}


@dataclass(frozen=True)
class Traffic:
    """What the exchanges of this member took so far; frames and tags included."""

    exchanges: int
    sent_bytes: int
    received_bytes: int
    waited_s: float
    """From the last own byte sent to the last one received, so computing that was slower elsewhere is in it."""


class Exchange:
    """One member's side; belongs to the thread that computes."""

    def __init__(
        self,
        channels: Sequence[Channel | None],
        own: int,
        form: SyncForm,
        *,
        values: int,
        deadline_s: float = DEADLINE_S,
        spin_us: float = SPIN_US,
        cipher: Cipher = Cipher.AEGIS256,
        use_compiled: bool = True,
    ) -> None:
        """Take the channels over; they are closed with the exchange.

        Args:
            channels: to every member, in the group's order, None at `own`; anything like a `RawChannel`.
            form: the same on all members, as are `values` and `cipher`.
            values: the most that are added up at once; more go in several exchanges.
        """
        if not 2 <= len(channels) <= MOST_MEMBERS:
            raise GroupBroken(f"a group has 2 to {MOST_MEMBERS} members, not {len(channels)}")
        self.own, self.form, self.members = own, form, len(channels)
        self.deadline_s = deadline_s
        self.cipher = cipher
        self.links = [
            None if channel is None else SealedLink(channel, member, cipher) for member, channel in enumerate(channels)
        ]
        if [link is None for link in self.links] != [member == own for member in range(self.members)]:
            raise GroupBroken(f"member {own} of {self.members} needs a channel to each of the others")
        self.capacity = -(-values // QUANTUM) * QUANTUM
        self._memory: list[NDArray[Any]] = []
        self.group = self._group(spin_us)
        self.compiled = use_compiled and machine_code_available()
        self._call = _machine_code() if self.compiled else _FUNCTION(self._interpreted)

    @property
    def others(self) -> list[int]:
        """The other members, in their order."""
        return [member for member in range(self.members) if member != self.own]

    @property
    def address(self) -> int:
        """The machine code's first argument; `function` takes it, the values' address and their number."""
        return self.group.ctypes.data

    @property
    def function(self) -> int:
        """Address of ``int64 all_reduce(int64 group, int64 data, int64 values)``, in machine code or in Python."""
        return ctypes.cast(self._call, ctypes.c_void_p).value or 0

    @property
    def traffic(self) -> Traffic:
        group = self.group
        counted = (int(group[field]) for field in (layout.COUNT, layout.SENT_BYTES, layout.RECEIVED_BYTES))
        return Traffic(*counted, waited_s=float(group[layout.WAITED_NS]) * 1e-9)

    def all_reduce(self, values: NDArray[np.float32]) -> None:
        """Put the group's sum in place of the own part; float32, C-contiguous. Raises `GroupBroken`."""
        flat = values.reshape(-1)
        if not np.shares_memory(flat, values):
            raise GroupBroken("partial sums that do not lie in one piece cannot be replaced")
        self._call(self.address, flat.ctypes.data, len(flat))
        self.check()

    def check(self) -> None:
        """Raise `GroupBroken` if an exchange has failed."""
        outcome = Outcome(self.group[layout.OUTCOME])
        if outcome is not Outcome.DONE:
            reason = _REASONS[outcome].format(deadline_s=self.deadline_s)
            raise GroupBroken(f"member {int(self.group[layout.CULPRIT])} of the group {reason}")

    def send(self, member: int, command: bytes) -> None:
        """A command, in order with the exchanges; raises `GroupBroken`."""
        context = Context(COMMAND, int(self.group[layout.COUNT]), len(command))
        self._link(member).send(command, context, timeout_s=self.deadline_s)

    def receive(self, member: int, *, most_bytes: int, timeout_s: float | None) -> bytes:
        """The member's next command; None waits until it comes or the channel ends. Raises `GroupBroken`."""
        count = int(self.group[layout.COUNT])
        return self._link(member).receive(COMMAND, count, most_bytes=most_bytes, timeout_s=timeout_s)

    def check_idle(self) -> None:
        """Raise `GroupBroken` if a member has closed its channel, or says something while nothing is due."""
        for member in self.others:
            self._link(member).check_idle()

    def shut(self) -> None:
        """End every wait at once, from any thread; the next exchange or command raises `GroupBroken`."""
        for link in self.links:
            if link is not None:
                link.shut()

    def close(self) -> None:
        """Close the channels, and the other members notice at once; never while a thread computes, see `shut`."""
        self.group[layout.OUTCOME] = self.group[layout.OUTCOME] or Outcome.GONE
        for link in self.links:
            if link is not None:
                link.close()

    def _link(self, member: int) -> SealedLink:
        link = self.links[member]
        if link is None:
            raise GroupBroken("a member sends itself nothing")
        return link

    def _interpreted(self, _group: int, data: int, values: int) -> int:
        partial = np.ctypeslib.as_array((ctypes.c_float * values).from_address(data))
        for start in range(0, values, self.capacity):
            all_reduce(self.group, self.links, self.form, partial[start : start + self.capacity])
        return int(self.group[layout.OUTCOME])

    def _group(self, spin_us: float) -> NDArray[np.int64]:
        """The numbers of `exchange_layout`; what they point to is kept alive in `_memory`."""
        group = np.zeros(layout.GROUP_FIELDS, np.int64)
        spin_ns = int(spin_us * 1000)
        for field, value in {
            **_functions(self.cipher),
            layout.MEMBERS: self.members,
            layout.OWN: self.own,
            layout.FORM: list(SyncForm).index(self.form),
            layout.CAPACITY: self.capacity,
            layout.BY_PARTS_FROM: by_parts_from(self.members, self.form),
            layout.TAG_BYTES: self.cipher.tag_bytes,
            layout.SEND_FLAGS: getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0),
            layout.RECEIVE_FLAGS: getattr(socket, "MSG_DONTWAIT", 0),
            layout.WOULD_BLOCK: errno.EAGAIN,
            layout.INTERRUPTED: errno.EINTR,
            layout.CLOCK_ID: getattr(time, "CLOCK_MONOTONIC", 0),
            layout.DEADLINE_NS: int(self.deadline_s * 1e9),
            layout.SPIN_NS: spin_ns,
            layout.SPIN_NOW_NS: spin_ns,
            layout.LINKS: self._keep(self._link_rows()),
            layout.POLLED: self._keep(np.zeros(self.members, np.int64)),
            layout.TIME: self._keep(np.zeros(2, np.int64)),
            layout.CONTEXT: self._keep(np.zeros(layout.CONTEXT_NUMBERS, np.int64)),
            layout.ENCODED: self._keep(np.zeros(4 * self.capacity, np.uint8)),
            layout.TOTAL: self._keep(np.zeros(self.capacity, np.float32)),
        }.items():
            group[field] = value
        return group

    def _link_rows(self) -> NDArray[np.int64]:
        rows = np.zeros((self.members, layout.LINK_FIELDS), np.int64)
        plain_bytes = 4 * self.capacity
        for link in self.links:
            if link is not None:
                frame = link.frame_bytes(plain_bytes)
                for field, value in {
                    layout.DESCRIPTOR: link.socket.fileno(),
                    layout.SEND_KEY: self._keep(link.send_key),
                    layout.RECEIVE_KEY: self._keep(link.receive_key),
                    layout.SEND_NONCE: self._keep(link.send_nonce),
                    layout.RECEIVE_NONCE: self._keep(link.receive_nonce),
                    layout.OUT: self._keep(np.zeros(frame, np.uint8)),
                    layout.IN: self._keep(np.zeros(frame, np.uint8)),
                    layout.PLAIN: self._keep(np.zeros(plain_bytes, np.uint8)),
                }.items():
                    rows[link.member, field] = value
        return rows

    def _keep(self, array: NDArray[Any]) -> int:
        self._memory.append(array)
        return array.ctypes.data


def machine_code_available() -> bool:
    """Windows has neither `poll` nor one `errno` for sockets: Python does it there."""
    return os.name == "posix" and importlib.util.find_spec("numba") is not None


@functools.cache
def _machine_code() -> Any:
    """Compiled once per installation, some seconds, then read from numba's cache."""
    from peerllm.engine import exchange_compiled

    return _FUNCTION(exchange_compiled.all_reduce.address or 0)


def prepare_exchange() -> None:
    """Compile ahead of need, for instance while weights are fetched."""
    if machine_code_available():
        _machine_code()


def _functions(cipher: Cipher) -> dict[int, int]:
    """Addresses of the functions that machine code calls; none on Windows."""
    if os.name != "posix":
        return {}
    library = ctypes.CDLL(None)
    sealing, unsealing = cipher.addresses()
    named = {
        layout.SEND: "send",
        layout.RECEIVE: "recv",
        layout.POLL: "poll",
        layout.CLOCK: "clock_gettime",
        layout.ERRNO: "__error" if sys.platform == "darwin" else "__errno_location",
    }
    addresses = {field: ctypes.cast(library[name], ctypes.c_void_p).value or 0 for field, name in named.items()}
    return {**addresses, layout.SEAL: sealing, layout.UNSEAL: unsealing}
