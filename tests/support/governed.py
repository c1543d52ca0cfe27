"""A quiet machine, an owner who said yes, and a governor that is watched from reading to reading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peerllm.guest_config import GuestConfig
from peerllm.serving.governor import Decision, GovernorState, SignalName, Verdict, decide
from peerllm.serving.policy import OwnersWord, Policy, policy_from
from peerllm.serving.readings import Readings

SHARE, REDUCE, PAUSE, RELEASE = Verdict
YES = OwnersWord(consented=True, sharing=True)
NOW = 1_790_000_000.0 // 86400 * 86400 + 3600  # 01:00 where the clock is UTC's
GIB = 1 << 30
PRESETS = ("idle", "polite", "night", "custom")


QUIET = Readings(
    at=NOW,
    idle_s=3600.0,
    on_battery=False,
    battery=1.0,
    power_saver=False,
    cores=8,
    others_cores=0.1,
    memory_total_bytes=16 * GIB,
    memory_free_bytes=8 * GIB,
    own_memory_bytes=GIB,
    memory_pressure=0.0,
    gpu_busy=0.0,
    gpu_free_bytes=4 * GIB,
    disk_free_bytes=50 * GIB,
    too_hot=False,
    metered=False,
    exclusive="",
    lid_closed=False,
    suspending=False,
    local_minute=60,
)


UNKNOWN = Readings(at=NOW, cores=8, local_minute=60)


def policy(name: str, word: OwnersWord = YES, **written: object) -> Policy:
    return policy_from(GuestConfig(policy=name, **written), word)  # type: ignore[arg-type]


def first(readings: Readings, rules: Policy, now: float = NOW) -> Decision:
    return decide(GovernorState(), readings, rules, now)[1]


@dataclass
class Watched:
    """A governor that is shown one reading after the other."""

    rules: Policy
    state: GovernorState = GovernorState()  # noqa: RUF009 - frozen
    now: float = NOW

    def sees(self, seconds: float = 1.0, **changed: object) -> Decision:
        """The decision on the readings of a quiet machine but for these, so much later."""
        self.now += seconds
        readings = replace(QUIET, at=self.now, **changed)  # type: ignore[arg-type]
        self.state, decision = decide(self.state, readings, self.rules, self.now)
        return decision


SIGNALS: list[tuple[SignalName, dict[str, object], tuple[Verdict, ...]]] = [
    # what is read; what idle, polite, night and custom make of it
    (SignalName.USER, {"idle_s": 0.0}, (PAUSE, REDUCE, REDUCE, PAUSE)),
    (SignalName.USER, {"idle_s": 299.0}, (PAUSE, SHARE, SHARE, PAUSE)),
    (SignalName.USER, {"idle_s": None}, (PAUSE, SHARE, SHARE, PAUSE)),
    (SignalName.BATTERY, {"on_battery": True, "battery": 1.0}, (PAUSE,) * 4),
    (SignalName.POWER_SAVER, {"power_saver": True}, (PAUSE,) * 4),
    (SignalName.OTHERS, {"others_cores": 3.0}, (REDUCE,) * 4),
    (SignalName.OTHERS, {"others_cores": 4.5}, (PAUSE, REDUCE, REDUCE, PAUSE)),
    (SignalName.OTHERS, {"others_cores": 8.0}, (PAUSE, REDUCE, REDUCE, PAUSE)),
    (SignalName.OTHERS, {"others_cores": None}, (REDUCE,) * 4),
    (SignalName.MEMORY, {"memory_free_bytes": GIB // 2 - 1}, (RELEASE,) * 4),
    (SignalName.MEMORY_PRESSURE, {"memory_pressure": 0.2}, (RELEASE,) * 4),
    (SignalName.GPU, {"gpu_busy": 0.5}, (PAUSE, SHARE, SHARE, PAUSE)),
    (SignalName.DISK, {"disk_free_bytes": GIB - 1}, (PAUSE,) * 4),
    (SignalName.TEMPERATURE, {"too_hot": True}, (PAUSE,) * 4),
    (SignalName.NETWORK, {"metered": True}, (PAUSE,) * 4),
    (SignalName.EXCLUSIVE, {"exclusive": "blender"}, (PAUSE,) * 4),
    (SignalName.LID, {"lid_closed": True, "on_battery": False}, (SHARE,) * 4),
    (SignalName.LID, {"lid_closed": True, "on_battery": None}, (PAUSE,) * 4),
    (SignalName.LID, {"lid_closed": True, "on_battery": True}, (PAUSE,) * 4),
    (SignalName.SUSPEND, {"suspending": True}, (PAUSE,) * 4),
    (SignalName.HOURS, {"local_minute": 12 * 60}, (SHARE, SHARE, PAUSE, PAUSE)),
]
