"""What speaks against lending at one instant: one rule for each signal, without memory. Pure.

An unknown reading never objects, save where a rule can only be kept by knowing: whether the user is away (idle), on
mains (a closed lid), how full the battery is (lending on battery).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from peerllm.hours import clock
from peerllm.serving.policy import OwnersWord, Policy
from peerllm.serving.readings import Readings
from peerllm.serving.verdict import SignalName, Verdict
from peerllm.sizes import format_bytes

MOST_PRESSURE = 0.1
"""Share of 10 s in which something waits for memory. A machine that does not swap is at 0; one that does, far above."""

_MAX_NAME = 60


@dataclass(frozen=True)
class Objection:
    """One reason to pause. `why` is true now, `ends` is what lending goes on for.

    `settles` is whether lending waits for a while after it has ended, since it may come back; what its owner or the
    clock says comes back only when they say so.
    """

    signal: SignalName
    why: str
    ends: str
    verdict: Verdict = Verdict.PAUSE
    settles: bool = True


def objections(readings: Readings, policy: Policy, now: float, idle_s: float | None) -> list[Objection]:
    """All that there are, in the order of `SignalName`; `idle_s` is how long the user is known to be away."""
    return [
        *_owner(readings, policy.word, now),
        *_hours(readings, policy),
        *_lid(readings, policy),
        *_memory(readings, policy),
        *_machine(readings, policy),
        *_user(readings, policy, idle_s),
        *_power(readings, policy),
        *_room(readings, policy),
        *_programs(readings, policy),
    ]


def no_core_left(policy: Policy) -> Objection:
    """For a load that has lasted; only a custom policy may say that it does not count."""
    ends = f"goes on after {duration(policy.resume_s)} in which one is free"
    return Objection(SignalName.OTHERS, "other programs use every core", ends)


def _owner(readings: Readings, word: OwnersWord, now: float) -> Iterator[Objection]:
    if not word.consented:
        yield Objection(
            SignalName.CONSENT,
            "lending was never agreed to",
            "say yes in the tray, in the chat or with `peerllm share on`",
            Verdict.RELEASE,
            settles=False,
        )
    if not word.sharing:
        yield Objection(
            SignalName.SWITCH,
            "lending is switched off",
            "the tray, the chat and `peerllm share on` switch it on",
            Verdict.RELEASE,
            settles=False,
        )
    if now < word.paused_until:
        ends = f"goes on {_time_of(word.paused_until, readings)}"
        yield Objection(SignalName.OWNER_PAUSE, "you asked for a pause", ends, settles=False)


def _hours(readings: Readings, policy: Policy) -> Iterator[Objection]:
    if policy.hours is not None and readings.local_minute not in policy.hours:
        ends = f"goes on at {clock(policy.hours.start)}"
        yield Objection(SignalName.HOURS, f"lending is for {policy.hours}", ends, settles=False)


def _lid(readings: Readings, policy: Policy) -> Iterator[Objection]:
    wait = duration(policy.resume_s)
    if readings.suspending:
        yield Objection(SignalName.SUSPEND, "this computer goes to sleep", f"goes on after {wait} awake")
    if readings.lid_closed and readings.on_battery is None:
        why = "the lid is closed, and whether this computer is on mains cannot be read here"
        yield Objection(SignalName.LID, why, f"goes on after {wait} with it open")
    elif readings.lid_closed and readings.on_battery:
        yield Objection(SignalName.LID, "the lid is closed", f"goes on after {wait} with it open, or on mains")


def _memory(readings: Readings, policy: Policy) -> Iterator[Objection]:
    wait, least = duration(policy.resume_s), policy.reserve_bytes // 2
    if _below(readings.memory_free_bytes, least):
        ends = f"goes on after {wait} with {format_bytes(least)}"
        yield Objection(SignalName.MEMORY, "little memory is free", ends, Verdict.RELEASE)
    if _above(readings.memory_pressure, MOST_PRESSURE):
        ends = f"goes on after {wait} without that"
        yield Objection(SignalName.MEMORY_PRESSURE, "programs wait for memory", ends, Verdict.RELEASE)


def _machine(readings: Readings, policy: Policy) -> Iterator[Objection]:
    wait = duration(policy.resume_s)
    if readings.too_hot:
        yield Objection(SignalName.TEMPERATURE, "this computer is too hot", f"goes on after {wait} cooler than that")
    if readings.exclusive:
        why = f"{_plain(readings.exclusive)} wants this computer for itself"
        yield Objection(SignalName.EXCLUSIVE, why, f"goes on after {wait} without it")


def _user(readings: Readings, policy: Policy, idle_s: float | None) -> Iterator[Objection]:
    if policy.idle_after_s is None:
        return
    if readings.idle_s is None or idle_s is None:
        why = f"whether you use this computer cannot be read here, and policy {policy.name} has to know"
        yield Objection(SignalName.USER, why, f"goes on {duration(policy.resume_s)} after it can, or with another")
    elif idle_s < policy.idle_after_s:
        ends = f"goes on after {duration(policy.idle_after_s)} without a key or a pointer"
        yield Objection(SignalName.USER, "you are using this computer", ends, settles=False)


def _power(readings: Readings, policy: Policy) -> Iterator[Objection]:
    wait = duration(policy.resume_s)
    if readings.on_battery and (why := _battery(readings, policy)):
        yield Objection(SignalName.BATTERY, why, f"goes on after {wait} on mains")
    if readings.power_saver and not policy.power_saver:
        yield Objection(SignalName.POWER_SAVER, "this computer saves power", f"goes on after {wait} without that")


def _battery(readings: Readings, policy: Policy) -> str:
    if not policy.on_battery:
        return "this computer runs on battery"
    if readings.battery is None and policy.min_battery > 0:
        return f"this computer runs on battery, and whether {policy.min_battery:.0%} are left cannot be read here"
    return f"the battery is below {policy.min_battery:.0%}" if _below(readings.battery, policy.min_battery) else ""


def _room(readings: Readings, policy: Policy) -> Iterator[Objection]:
    wait = duration(policy.resume_s)
    if readings.metered and not policy.metered:
        yield Objection(SignalName.NETWORK, "the network is paid by volume", f"goes on after {wait} on another")
    if _below(readings.disk_free_bytes, policy.disk_reserve_bytes):
        ends = f"goes on after {wait} with {format_bytes(policy.disk_reserve_bytes)}"
        yield Objection(SignalName.DISK, "little disk space is free", ends)


def _programs(readings: Readings, policy: Policy) -> Iterator[Objection]:
    ends = f"goes on after {duration(policy.resume_s)} in which they do not"
    if _above(readings.gpu_busy, policy.most_others_gpu):
        yield Objection(SignalName.GPU, "other programs use the GPU", ends)
    if _above(readings.others_cores, policy.most_others_cores * readings.cores):
        why = f"other programs use more than {policy.most_others_cores:.0%} of the cores"
        yield Objection(SignalName.OTHERS, why, ends)


def _below(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _above(value: float | None, most: float) -> bool:
    return value is not None and value > most


def duration(seconds: float) -> str:
    """As people say it: "2 minutes", "90 seconds"."""
    for unit_s, unit in ((3600, "hour"), (60, "minute")):
        if seconds >= unit_s and seconds % unit_s == 0:
            count = int(seconds // unit_s)
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"


def _time_of(moment: float, readings: Readings) -> str:
    """The local time of day of a later moment, reckoned from the readings' own."""
    minute = readings.local_minute + int(moment // 60) - int(readings.at // 60)
    days, minute = divmod(minute, 24 * 60)
    day = "" if days <= 0 else "tomorrow " if days == 1 else f"in {days} days "
    return f"{day}at {clock(minute)}"


def _plain(name: str) -> str:
    """A program's name may hold anything."""
    return "".join(letter for letter in name[:_MAX_NAME] if letter.isprintable()) or "a program"
