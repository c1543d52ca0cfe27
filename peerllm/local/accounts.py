"""What the daemon keeps of each answered request: where its time was predicted to go, and where it went.

Milliseconds are per decoded token. Neither prompts nor answers are in it, only their lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.local.schema import Schema

OUTCOMES = ("stop", "length", "tool_calls", "embedded", "cancelled", "failed", "running")
"""How a request ended: the first three as OpenAI's `finish_reason`, with vectors, by its client, or by an error; or
that it has not yet."""


@dataclass(frozen=True)
class HopTimes(Schema):
    """One token at one hop: on the way there with all framing, waiting for the engine, in the blocks."""

    link_ms: float
    queue_ms: float
    compute_ms: float

    @property
    def total_ms(self) -> float:
        return self.link_ms + self.queue_ms + self.compute_ms

    @property
    def slowest(self) -> str:
        """The part that takes longest: "link", "queue" or "compute"."""
        parts = {"link": self.link_ms, "queue": self.queue_ms, "compute": self.compute_ms}
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class HopAccount(Schema):
    """One peer of the route; `measured` is None if no token was decoded, `input_bytes` is what went into it in all."""

    peer_id: str
    name: str
    span: str
    predicted: HopTimes
    measured: HopTimes | None = None
    input_bytes: int = 0


@dataclass(frozen=True)
class RouteChange(Schema):
    """A hop that was lost behind so many tokens of the answer, and why; the account then goes on with another route."""

    at_token: int
    peer_id: str
    name: str
    reason: str


@dataclass(frozen=True)
class RequestAccount(Schema):
    """One request; its hops are those of the last route that decoded, first to last.

    `predicted_ms` and `measured_ms` are the round through the route, hops and return; the ends of the
    model and the sampling at the asker come on top, `ends_ms`. 0 stands for never measured. In `rounds` behind the
    prompt's `drafted_tokens` were guessed, of which `accepted_tokens` are in the answer.
    """

    id: str
    model: str
    at: float  # Unix seconds when it began
    outcome: str
    prompt_tokens: int
    answer_tokens: int
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    predicted_ms: float = 0.0
    measured_ms: float = 0.0
    return_predicted_ms: float = 0.0
    return_measured_ms: float = 0.0
    ends_ms: float = 0.0
    hops: tuple[HopAccount, ...] = ()
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    recoveries: int = 0
    changes: tuple[RouteChange, ...] = ()
    error: str = ""

    @property
    def slowest(self) -> HopAccount | None:
        """The hop on which a token spends most; by prediction if nothing was measured, None without a route."""
        return max(self.hops, key=lambda hop: (hop.measured or hop.predicted).total_ms, default=None)

    @property
    def off_by(self) -> float | None:
        """How much longer a token took than predicted, as a part of the prediction; None if unknown."""
        if not (self.predicted_ms > 0 and self.measured_ms > 0):
            return None
        return self.measured_ms / self.predicted_ms - 1
