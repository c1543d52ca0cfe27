"""Deadlines of a chain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChainTimings:
    """In seconds."""

    open_s: float = 10.0
    step_s: float = 30.0
    """For each decoded token: a live peer that is just slow keeps its pings."""
    prefill_s: float = 120.0
    """For each acknowledged chunk of a prompt."""
    stuck_s: float = 3.0
    """For a decoded token where others could do the blocks in which it is stuck."""
    prefill_stuck_s: float = 15.0
    """The same for a chunk of a prompt, at most: short prompts get less."""
    report_s: float = 1.0
    """For the hops to say how far they are."""
    extend_s: float = 2.0
    """For the hops of a session that was kept to take it up again; opening one anew takes no longer."""
