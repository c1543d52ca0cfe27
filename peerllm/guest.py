"""This machine as a guest of its owner: what they said of lending, and what the governor makes of the moment.

Once a second the machine is read, the governor asked, and the contributor told; what the owner says counts at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peerllm import choices
from peerllm.choices import Choices
from peerllm.config import Config
from peerllm.config_sources import LoadedConfig
from peerllm.engine.budget import RUNTIME_BYTES
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import PeerllmError
from peerllm.giving.accounts import Accounts
from peerllm.local.lending import GuestStatus, LedgerRow, Limit
from peerllm.machine_watch import MachineWatch, Reader, unknown
from peerllm.serving import memory_room
from peerllm.serving.contribution import Phase
from peerllm.serving.contributor import Contributor
from peerllm.serving.governor import GovernorState, decide
from peerllm.serving.memory_room import Change, MemoryRoom
from peerllm.serving.policy import Policy, policy_from
from peerllm.serving.signals import signals
from peerllm.serving.two_speeds import TwoSpeeds
from peerllm.serving.verdict import Decision, Verdict
from peerllm.serving.watts import PackageWatts
from peerllm.wire.bandwidth import Bandwidth

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the machine: with the time a reading takes and that for sessions to be handed over, the owner
has the machine back within 2 s."""

FINISHING = "finishing: sessions that run may end, then lending stops"

_NEWS = ("consented", "verdict", "reason", "policy", "paused_until", "finishing")
"""Fields of `GuestStatus` whose change is an event; the others change all the time."""


class Guest:
    """`GuestServices` of the running daemon; `run` is its life."""

    def __init__(
        self,
        loaded: LoadedConfig,
        file: Path,
        make_reader: Callable[[], Reader],
        cap: ThreadCap,
        accounts: Accounts,
        tell: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`file` keeps the owner's choices, `cap` is what engines obey, `tell` sends an event to all clients."""
        self._loaded = loaded
        self._file = file
        self._cap = cap
        self._accounts = accounts
        self._tell = tell
        self._choices = choices.at_start(choices.load_choices(file), loaded, time.time())
        self._saving = asyncio.Lock()
        self.config = choices.with_choices(loaded.config, self._choices)
        """As it counts now: the owner's choices outrank it as it was read."""
        self._watch = MachineWatch(make_reader)
        self._readings = unknown(time.time())
        self._state = GovernorState()
        self._room = MemoryRoom()
        self._contributor: Contributor | None = None
        self._using: Callable[[], tuple[str, ...]] = tuple
        self._told = GuestStatus()
        self._decided = asyncio.Event()
        self.speeds = TwoSpeeds(cap, PackageWatts(time.monotonic()), time.monotonic())
        self.bandwidth = Bandwidth()
        """What others' sessions may take of the line, by the same choices."""

    @property
    def sharing(self) -> bool:
        """Whether the owner lends this machine, paused or not."""
        word = choices.owners_word(self._loaded.config, self._choices)
        return word.consented and word.sharing

    async def run(self) -> None:
        """Look, decide and tell until cancelled."""
        try:
            while True:
                self._readings = await self._watch.read(time.time(), self.config.guest.programs)
                self._decide()
                self._look_at_power()
                self._decided.set()
                if self._readings.suspending and not self._serves:
                    self._watch.ready_to_sleep()
                await asyncio.sleep(LOOK_S)
        finally:
            await asyncio.to_thread(self._watch.close)

    def _look_at_power(self) -> None:
        if self._contributor is not None:
            self.speeds.look(time.monotonic(), self._contributor.work, self.config.guest)

    @property
    def _serves(self) -> bool:
        contributor = self._contributor
        return contributor is not None and contributor.contribution.phase is Phase.SERVING

    async def attach(self, contributor: Contributor, using: Callable[[], tuple[str, ...]]) -> None:
        """Lead this contributor from now on, as soon as there is a decision; `using` names whom it serves now."""
        await self._decided.wait()
        self._contributor, self._using = contributor, using
        if self.sharing:
            contributor.switch(True)
            self._decide()

    def detach(self) -> None:
        self._contributor, self._using = None, tuple

    def left_over(self, engine: str, device: str) -> int | None:
        """The most bytes that a span may take on this device now; None if nothing is known of it."""
        if device != "cpu":
            return None
        left = memory_room.room_bytes(
            self._room,
            cap_bytes=1 << 62,
            reserve_bytes=self.config.guest.reserve_bytes,
            runtime_bytes=RUNTIME_BYTES[engine],
        )
        return None if left is None else int(left * (1 - memory_room.MARGIN))

    # What the API asks.

    def status(self) -> GuestStatus:
        contributor, decision = self._contributor, self._state.decision
        word, now = choices.owners_word(self._loaded.config, self._choices), time.time()
        finishing = contributor is not None and contributor.contribution.finishing
        gave_tokens, used_tokens = self._accounts.today()
        return GuestStatus(
            consented=word.consented,
            verdict=decision.verdict if decision and self.sharing else "",
            reason=FINISHING if finishing else decision.reason if decision else "",
            since=self._state.since,
            policy=self.config.guest.policy,
            paused_until=word.paused_until if word.paused_until > now else 0.0,
            finishing=finishing,
            power=self.speeds.mode if self.sharing else "",
            threads=self._cap.now,
            memory_bytes=contributor.offer.memory_bytes if contributor and contributor.offer else 0,
            signals=signals(self._readings, decision.held if decision else ()),
            using=self._using(),
            gave_tokens=gave_tokens,
            used_tokens=used_tokens,
        )

    async def share(self, on: bool, *, finish: bool = False) -> None:
        self._choose(choices.switched(self._choices, on, time.time()))
        if self._contributor is not None:
            self._contributor.switch(on, finish=finish)
        self._decide()
        await self._keep()

    async def pause(self, until: float) -> None:
        self._choose(choices.paused(self._choices, until))
        await self._keep()

    def limits(self) -> list[Limit]:
        return choices.limits(self._loaded.config, self._choices, self._loaded.sources)

    async def set_limits(self, values: Mapping[str, object]) -> None:
        self._choose(choices.set_values(self._choices, values))
        await self._keep()

    async def ledger(self, days: int) -> list[LedgerRow]:
        """Raises `BadLedger`."""
        return await asyncio.to_thread(self._accounts.rows, days)

    def _choose(self, chosen: Choices) -> None:
        """These choices count from now on."""
        before, self._choices = self.config, chosen
        self.config = now = choices.with_choices(self._loaded.config, chosen)
        if self._contributor is not None and _lent(now) != _lent(before):
            self._contributor.lend_anew()
        self._decide()

    async def _keep(self) -> None:
        """Have the choices outlive this daemon; raises `PeerllmError` if they cannot."""
        async with self._saving:
            try:
                await asyncio.to_thread(choices.save_choices, self._file, self._choices)
            except OSError as error:
                raise PeerllmError(
                    f"done, but not for the next start: {self._file} cannot be written: {error}"
                ) from error

    def _decide(self) -> None:
        now = time.time()
        self._state, decision = decide(self._state, self._readings, self._policy(), now)
        self._room = memory_room.observe(self._room, self._readings, now)
        self._cap.threads = decision.threads
        self._limit_bandwidth()
        self._lead(decision, now)
        self._tell_news()

    def _limit_bandwidth(self) -> None:
        guest = self.config.guest
        self.bandwidth.limit(
            upload_bytes_per_s=guest.upload_bytes_per_s, download_bytes_per_s=guest.download_bytes_per_s
        )

    def _tell_news(self) -> None:
        status = self.status()
        if any(getattr(status, name) != getattr(self._told, name) for name in _NEWS):
            log.info("governor verdict=%s reason=%r", status.verdict, status.reason)
            self._tell("guest", status.to_json())
            self._told = status

    def _policy(self) -> Policy:
        word = choices.owners_word(self._loaded.config, self._choices)
        contributor = self._contributor
        if contributor is not None and contributor.contribution.finishing:
            word = replace(word, sharing=True)  # until those sessions have ended, only others may stop them
        on_gpu = bool(contributor and contributor.offer and contributor.offer.device != "cpu")
        return policy_from(self.config.guest, word, on_gpu=on_gpu)

    def _lead(self, decision: Decision, now: float) -> None:
        """Have the contributor do what was decided; said again and again, it changes nothing."""
        contributor = self._contributor
        if contributor is None or not (self.sharing or contributor.contribution.finishing):
            return
        if decision.verdict is Verdict.RELEASE:
            contributor.release(decision.reason)
        elif decision.verdict is Verdict.PAUSE:
            contributor.hold(decision.reason)
        else:
            contributor.go_on()
            self._fit(contributor, now)

    def _fit(self, contributor: Contributor, now: float) -> None:
        """Another span where the memory that is left over has become too small for the present one, or much larger."""
        offer, span = contributor.offer, contributor.contribution.span
        if (
            offer is None
            or span is None
            or offer.device != "cpu"
            or contributor.contribution.phase is not Phase.SERVING
            or contributor.members  # who hold most of that span
        ):
            return
        lent = self.config.contribution
        full = replace(
            offer,
            memory_bytes=lent.memory_bytes or offer.memory_bytes,
            capacity_blocks=min(offer.spec.blocks, lent.max_blocks or offer.spec.blocks),
        )
        self._room, advice = memory_room.advise(
            self._room, full, len(span), reserve_bytes=self.config.guest.reserve_bytes, now=now
        )
        if advice.change is not Change.STAY:
            log.info("memory room change=%s blocks=%d", advice.change, advice.blocks)
            self._room = memory_room.changed(self._room, now)
            contributor.lend_anew()


def _lent(config: Config) -> tuple[object, ...]:
    """What a span is chosen by: a change of it means choosing again."""
    return replace(config.contribution, enabled=False), config.engine
