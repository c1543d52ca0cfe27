"""What `peerllm share` says, without a daemon."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from peerllm.cli.share import consent_words, sharing_words
from peerllm.durations import parse_pause
from peerllm.errors import UsageError
from peerllm.local.lending import GuestStatus
from peerllm.local.schema import (
    ApiStatus,
    ContributionStatus,
    LifecycleState,
    MembershipStatus,
    Status,
)

LENT = ContributionStatus(True, "smollm2-135m", "0:12", 30)
STATUS = Status(
    "1", "me", "desktop", 1, 0.0, "home", LifecycleState("idle", 0.0), ContributionStatus(False), ApiStatus("", 0)
)


@pytest.mark.parametrize(
    ("lent", "guest", "words"),
    [
        (LENT, GuestStatus(reason="sharing: quiet"), "sharing is on, blocks 0:12 of smollm2-135m; sharing: quiet"),
        (
            replace(LENT, span=""),
            GuestStatus(),
            "sharing is on, no blocks yet of smollm2-135m; looking at this machine",
        ),
        (
            replace(LENT, span="", in_group=True, reason="serves in the group of Tower"),
            GuestStatus(reason="sharing: quiet"),
            "sharing is on, a slice (serves in the group of Tower) of smollm2-135m; sharing: quiet",
        ),
        (
            replace(LENT, members=("a", "b")),
            GuestStatus(reason="sharing: quiet"),
            "sharing is on, blocks 0:12 with 2 others of smollm2-135m; sharing: quiet",
        ),
        (LENT, GuestStatus(finishing=True, reason="finishing: so it is"), "finishing: so it is"),
        (ContributionStatus(False, reason="sharing is off"), GuestStatus(), "sharing is off"),
        (ContributionStatus(False, reason="wrong results"), GuestStatus(), "sharing is off: wrong results"),
    ],
)
def test_sharing_in_a_line(lent: ContributionStatus, guest: GuestStatus, words: str) -> None:
    assert sharing_words(lent, guest) == words


def test_consent_names_what_is_lent_and_to_whom() -> None:
    words = consent_words(
        STATUS, {"contribution.memory_bytes": 2 << 30, "contribution.model": "m", "guest.policy": "night"}
    )
    for fact in ("members of the swarm home", "blocks of m", "2.00 GiB", "guest.policy night", "peerllm share off"):
        assert fact in words
    assert "half of what is free" in consent_words(STATUS, {"contribution.memory_bytes": 0})
    public = replace(STATUS, membership=MembershipStatus(public=True))
    assert "WHOEVER can reach it" in consent_words(public, {})


def test_pauses_as_people_write_them() -> None:
    now = time.mktime((2026, 11, 21, 17, 30, 0, 0, 0, -1))
    assert parse_pause("30m", now) == now + 1800
    assert parse_pause("2h", now) == now + 7200
    assert time.localtime(parse_pause("tomorrow", now))[:5] == (2026, 11, 22, 8, 0)
    before_dawn = time.mktime((2026, 11, 22, 3, 0, 0, 0, 0, -1))
    assert time.localtime(parse_pause("tomorrow", before_dawn))[:5] == (2026, 11, 22, 8, 0)
    for nonsense in ("soon", "0", "-5m", ""):
        with pytest.raises(UsageError):
            parse_pause(nonsense, now)
