"""Every now and then, when an answer has ended: has one of its hops computed what it should have?

Its inputs are computed once more by others and compared (`peerllm_swarm.spot_checks`). What is found is kept, and a
peer that was wrong where two others agree is not asked for a while. See docs/spot-checks.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopLost, PeerllmError
from peerllm.findings import Findings
from peerllm.generation.chain import Chain
from peerllm.generation.claim import Claim, ClaimTaker, Contradiction
from peerllm.generation.recomputing import Recomputer
from peerllm.generation.session import Ending, closes
from peerllm.giving.books import Books
from peerllm.measured import Measured
from peerllm.presence import Presence
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport
from peerllm_swarm.chain import Visit
from peerllm_swarm.routing import Route
from peerllm_swarm.span import PeerId
from peerllm_swarm.spot_checks import Finding, Verdict, choose_witness, judge, positions_beyond, row_errors

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Spot checks under way; answers that end meanwhile are not checked. Their rows are in memory, up to 100 MiB each."""

WITNESSES_ASKED = 4
"""At most, until two have answered."""


@dataclass(frozen=True)
class SpotCheckTimings:
    """Deadlines in seconds."""

    claim_s: float = 10.0
    """For the hops to show what they have sent; their slots are held that long."""
    open_s: float = 10.0
    recompute_s: float = 60.0
    """For one witness; as long as a prompt of `MAX_ROWS` may take."""


@dataclass(frozen=True)
class _Testimony:
    """What others make of the inputs of a claim."""

    peers: tuple[PeerId, ...]
    rows: Hidden  # at the claim's positions


class SpotChecks:
    """Checks some of one asker's answers, each in a task of its own that nobody waits for."""

    def __init__(
        self,
        presence: Presence,
        transport: Transport,
        measured: Measured,
        findings: Findings,
        *,
        probability: float,
        wire_dtype: WireDtype,
        rng: Random,
        timings: SpotCheckTimings = SpotCheckTimings(),
        books: Books | None = None,
    ) -> None:
        """`probability` is that of an answer to be checked; `measured` learns whom not to ask.

        `books` count the witnesses' work.
        """
        self._presence = presence
        self._transport = transport
        self._measured = measured
        self._findings = findings
        self._probability = probability
        self._wire_dtype = wire_dtype
        self._rng = rng
        self._timings = timings
        self._books = books
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        measured.note_quarantine(findings.quarantined())

    @property
    def running(self) -> int:
        """Checks under way."""
        return len(self._running)

    def at_end(
        self, chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack, *, limit: float, then: Ending = closes
    ) -> None:
        """An `Ending`: checks this answer if its turn has come; `limit` is the tolerance for its rows.

        `then` is told of the chain as soon as it is not needed any more.
        """
        others = [at for at, hop in enumerate(chain.route.hops) if hop.peer_id != self._presence.peer_id]
        if self._rng.random() >= self._probability or not others or self._closed or len(self._running) >= AT_ONCE:
            then(chain, inputs, stack)
            return
        check = self._check(chain, list(inputs), stack.pop_all(), self._rng.choice(others), limit, then)
        task = asyncio.create_task(check)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def aclose(self) -> None:
        """Give up what is under way, and every slot that it holds."""
        self._closed = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("spot check failed", exc_info=error)

    async def _check(
        self, chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack, at: int, limit: float, then: Ending
    ) -> None:
        route, peer = chain.route, chain.route.hops[at].peer_id
        try:
            async with stack:  # the hops are free again before others are asked
                deadline = asyncio.get_running_loop().time() + self._timings.claim_s
                async with asyncio.timeout_at(deadline):
                    claim = await ClaimTaker(chain, inputs, deadline).take(at)
                if isinstance(claim, Claim):
                    then(chain, inputs, stack)
            if isinstance(claim, Contradiction):
                self._note(_contradicting(claim, route.fingerprint))
            else:
                await self._hear_witnesses(claim, route, limit)
        except (PeerllmError, TimeoutError, OSError) as error:
            log.info("spot check without a verdict peer=%s: %s", peer, error or "too slow")

    async def _hear_witnesses(self, claim: Claim, route: Route, limit: float) -> None:
        inputs = claim.inputs[list(claim.positions)]
        heard: list[_Testimony] = []
        asked = {claim.hop.peer_id}
        verdict = Verdict.OPEN
        for _ in range(WITNESSES_ASKED):
            visits = self._witness(claim, route, asked)
            if not visits or len(heard) == 2 or verdict is not Verdict.OPEN:
                break
            asked |= {visit.peer_id for visit in visits}
            testimony = await self._testimony(visits, claim, route.fingerprint)
            if testimony is not None:
                heard.append(testimony)
                rows = [one.rows for one in heard]
                verdict = await asyncio.to_thread(judge, claim.outputs, rows, inputs, limit)
        log.info("spot check peer=%s verdict=%s rows=%d", claim.hop.peer_id, verdict, len(claim.positions))
        finding = _finding(verdict, claim, heard, inputs, route.fingerprint, limit)
        if finding is not None:
            self._note(finding)

    def _witness(self, claim: Claim, route: Route, asked: set[PeerId]) -> tuple[Visit, ...]:
        return choose_witness(
            self._presence.view(),
            route.fingerprint,
            route.blocks,
            claim.hop.span,
            asker=self._measured.asker,
            tokens=len(claim.inputs),
            without=asked,
            rng=self._rng,
        )

    async def _testimony(self, visits: Sequence[Visit], claim: Claim, fingerprint: str) -> _Testimony | None:
        """None if they cannot be asked, or not in time: that says nothing of anybody."""
        recomputer = Recomputer(self._transport, fingerprint, self._wire_dtype, self._timings.open_s, self._books)
        addresses = {record.peer_id: record.addresses for record in self._presence.view().records}
        try:
            async with asyncio.timeout(self._timings.recompute_s):
                rows = await recomputer.through(visits, claim.inputs, addresses)
        except (HopLost, TimeoutError) as error:
            log.info("spot check goes without a witness: %s", error or "too slow")
            return None
        return _Testimony(tuple(visit.peer_id for visit in visits), rows[list(claim.positions)])

    def _note(self, finding: Finding) -> None:
        log.warning(
            "spot check peers=%s confirmed=%s blocks=%s error=%.3g: %s",
            ",".join(finding.peers),
            finding.confirmed,
            finding.blocks,
            finding.largest_error,
            finding.reason,
        )
        try:
            self._findings.add(finding)
        finally:
            self._measured.note_quarantine(self._findings.quarantined())


def _contradicting(found: Contradiction, fingerprint: str) -> Finding:
    return Finding(
        at=time.time(),
        confirmed=False,
        peers=(found.sender.peer_id, found.receiver.peer_id),
        witnesses=(),
        fingerprint=fingerprint,
        blocks=str(found.sender.span),
        start=found.start,
        end=found.end,
        reason="two peers contradict one another about what one has sent to the other",
        digests=found.digests,
    )


def _finding(
    verdict: Verdict, claim: Claim, heard: Sequence[_Testimony], inputs: Hidden, fingerprint: str, limit: float
) -> Finding | None:
    """What is to be kept; None where there is nothing to say."""
    claimed = _Testimony((claim.hop.peer_id,), claim.outputs)
    match verdict:
        case Verdict.LIED:
            wrong, right = claimed, heard[0]
            witnesses = (*heard[0].peers, *heard[1].peers)
        case Verdict.ODD_WITNESS:
            wrong, right = heard[0], claimed
            witnesses = (*claimed.peers, *heard[1].peers)
        case Verdict.OPEN if heard:
            wrong, right, witnesses = claimed, heard[0], ()
        case _:
            return None
    confirmed = verdict is not Verdict.OPEN and len(wrong.peers) == 1  # of several, any one may have been wrong
    errors = row_errors(wrong.rows, right.rows, inputs)
    return Finding(
        at=time.time(),
        confirmed=confirmed,
        peers=wrong.peers if witnesses else (*wrong.peers, *(peer for one in heard for peer in one.peers)),
        witnesses=witnesses,
        fingerprint=fingerprint,
        blocks=str(claim.hop.span),
        start=claim.positions[0],
        end=claim.positions[-1] + 1,
        reason="gave wrong results in a spot check" if confirmed else "peers do not agree about the same blocks",
        wrong=positions_beyond(errors, claim.positions, limit),
        largest_error=float(min(errors.max(), 1e9)),
        tolerance=limit,
        digests=(_digest(wrong.rows), _digest(right.rows)),
    )


def _digest(rows: Hidden) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()
