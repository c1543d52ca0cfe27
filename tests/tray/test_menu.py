"""What the icon and its menu show at every kind of moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from peerllm.local.lending import GuestStatus, Limit
from peerllm.local.schema import ApiStatus, ContributionStatus, LifecycleState, MembershipStatus, Status
from peerllm_tray.actions import (
    Action,
    AskConsent,
    OpenChat,
    Pause,
    Quit,
    SetLimit,
    Share,
    StartAtLogin,
    StartDaemon,
    pause_until,
)
from peerllm_tray.menu import face
from peerllm_tray.menu_entry import Entry, Kind
from peerllm_tray.menu_layout import ROOT, MenuNumbers, menu_layout
from peerllm_tray.moment import Look, Machine, Moment
from peerllm_tray.state import Picture, tray_state

NOON = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
GIB = 1 << 30
HOSTILE = "<b>x</b>\x1b[2J\u202e" + "z" * 10_000

STATUS = Status(
    version="0",
    peer_id="12D3KooWAlone",
    name="alone",
    pid=1,
    since=NOON,
    swarm="home",
    lifecycle=LifecycleState("serving", NOON),
    contribution=ContributionStatus(True, "smollm2-135m", "0:12", 30),
    api=ApiStatus("127.0.0.1", 7337),
)
GUEST = GuestStatus(consented=True, verdict="share", reason="nobody else needs this machine")
LIMITS = (
    Limit("contribution.memory_bytes", 4 * GIB, 0, "a size", "Memory lent."),
    Limit("engine.threads", 3, 0, "0 to 1024", "Threads."),
    Limit("guest.policy", "polite", "polite", "idle, polite, night, custom", "When."),
    Limit("contribution.model", "smollm2-135m", "smollm2-135m", "a name", "Model."),
)
SHARING = Moment(Machine(16 * GIB, 8), NOON, Look(STATUS, GUEST, LIMITS, ("smollm2-135m", "llama_3-8b")))
AWAY = Moment(SHARING.machine, NOON, away="no daemon is running")


def guest(**changes: object) -> Moment:
    assert SHARING.look is not None
    return replace(SHARING, look=replace(SHARING.look, guest=replace(GUEST, **changes)))


def status(**changes: object) -> Moment:
    assert SHARING.look is not None
    return replace(SHARING, look=replace(SHARING.look, status=replace(STATUS, **changes)))


def shown(moment: Moment) -> dict[str, Entry]:
    """The entries that a user can reach, by their labels."""
    return {entry.label: entry for entry in _visible(face(moment).menu) if entry.kind is not Kind.SEPARATOR}


def _visible(entries: tuple[Entry, ...]) -> Iterator[Entry]:
    for entry in entries:
        if entry.visible:
            yield entry
            yield from _visible(entry.children)


@pytest.mark.parametrize(
    ("moment", "picture", "headline"),
    [
        (Moment(SHARING.machine), Picture.OFF, "Looking for the daemon …"),
        (AWAY, Picture.TROUBLE, "The daemon does not answer"),
        (replace(AWAY, starting=True), Picture.PREPARING, "Starting the daemon …"),
        (status(lifecycle=LifecycleState("error", 0, reason="disk full")), Picture.TROUBLE, "The daemon needs you"),
        (guest(consented=False), Picture.OFF, "Not sharing: you have not said yes yet"),
        (status(contribution=ContributionStatus(False)), Picture.OFF, "Not sharing"),
        (guest(paused_until=NOON + 3600), Picture.OFF, "Paused by you until 13:00"),
        (guest(paused_until=NOON + 20 * 3600), Picture.OFF, "Paused by you until Sunday, 08:00"),
        (guest(paused_until=NOON - 1), Picture.SHARING, "Sharing blocks 0:12 of smollm2-135m"),
        (guest(verdict="pause"), Picture.BUSY, "Paused: this computer is yours first"),
        (guest(verdict="release"), Picture.BUSY, "Paused: this computer is yours first"),
        (guest(verdict="reduce"), Picture.SHARING, "Sharing blocks 0:12 of smollm2-135m"),
        (guest(finishing=True), Picture.ANSWERING, "Finishing what runs, then sharing stops"),
        (guest(using=("attic",)), Picture.ANSWERING, "Answering others with blocks 0:12 of smollm2-135m"),
        (
            status(contribution=ContributionStatus(True, "smollm2-135m"), lifecycle=LifecycleState("loading", 0, 0.25)),
            Picture.PREPARING,
            "About to share: loading 25%",
        ),
    ],
)
def test_picture_and_headline(moment: Moment, picture: Picture, headline: str) -> None:
    state = tray_state(moment)
    assert (state.picture, state.headline) == (picture, headline)


@pytest.mark.parametrize(
    ("moment", "action"),
    [
        (SHARING, Share(False)),
        (status(contribution=ContributionStatus(False)), Share(True)),
        (guest(paused_until=NOON + 60), Pause(0)),
        (guest(consented=False), AskConsent()),
        (AWAY, StartDaemon()),
        (replace(AWAY, starting=True), None),
        (Moment(SHARING.machine), None),
    ],
)
def test_click_on_the_icon(moment: Moment, action: Action | None) -> None:
    assert face(moment).click == action


def test_nothing_can_lend_before_the_first_yes_but_the_yes() -> None:
    entries = shown(guest(consented=False))
    assert [entry.action for entry in entries.values() if entry.action == Share(True)] == [Share(True)]
    assert entries["Yes, lend this computer"].action == Share(True)
    assert "Contribute" not in entries
    assert "Lend this computer to the swarm home?" in entries


def test_public_swarm_is_said_before_the_yes() -> None:
    moment = guest(consented=False)
    assert moment.look is not None
    public = replace(moment.look.status, membership=MembershipStatus(public=True))
    assert any("public" in label for label in shown(replace(moment, look=replace(moment.look, status=public))))


def test_switches_of_who_lends() -> None:
    entries = shown(SHARING)
    assert entries["Contribute"].checked
    assert entries["Contribute"].action == Share(False)
    assert entries["Until tomorrow"].action == Pause(None)
    assert entries["Finish current work and stop"].action == Share(False, finish=True)
    assert entries["Open chat"].action == OpenChat()
    assert entries["Quit and stop sharing"].action == Quit(stop_sharing=True)
    assert "Resume" not in entries
    assert "Start the daemon" not in entries


def test_paused_one_can_resume() -> None:
    entries = shown(guest(paused_until=NOON + 60))
    assert entries["Resume"].action == Pause(0)
    assert "Pause" not in entries


def test_without_a_daemon_only_what_works_is_there() -> None:
    assert list(shown(replace(AWAY, at_login=True))) == [
        "The daemon does not answer",
        "No daemon is running",
        "Start the daemon",
        "Start at login",
        "Quit",
    ]
    assert shown(replace(AWAY, at_login=True))["Start at login"].action == StartAtLogin(False)


def test_presets_and_what_is_no_preset() -> None:
    entries = shown(SHARING)
    memory = entries["A quarter of it: 4.00 GiB"]
    assert (memory.action, memory.checked) == (SetLimit("contribution.memory_bytes", 4 * GIB), True)
    assert entries["As set: 3"].checked
    assert entries["1 core"].action == SetLimit("engine.threads", 1)
    assert entries["4 cores"].action == SetLimit("engine.threads", 4)
    assert entries["Always, politely"].checked
    assert entries["At night"].action == SetLimit("guest.policy", "night")
    assert entries["llama_3-8b"].action == SetLimit("contribution.model", "llama_3-8b")


def test_limits_that_the_daemon_does_not_list_are_not_shown() -> None:
    assert SHARING.look is not None
    entries = shown(replace(SHARING, look=replace(SHARING.look, limits=LIMITS[2:3])))
    assert "How much to lend" in entries
    assert "1 core" not in entries
    assert "Model to serve" not in entries


def test_small_machine_has_each_choice_once() -> None:
    entries = _visible(face(replace(SHARING, machine=Machine(GIB, 1))).menu)
    labels = [entry.label for entry in entries]
    assert labels.count("1 core") == 1


def test_what_strangers_say_is_one_short_line() -> None:
    moment = guest(using=(HOSTILE,), reason=HOSTILE, gave_tokens=5)
    for label in shown(replace(moment, failure=HOSTILE)):
        assert label.isprintable()
        assert len(label) < 200


def test_words_and_marks_change_without_a_new_shape() -> None:
    numbers = MenuNumbers()
    layouts = [
        menu_layout(face(moment).menu, numbers)
        for moment in (SHARING, guest(using=("attic",)), guest(consented=False), guest(paused_until=NOON + 60))
    ]
    assert len({tuple(sorted(layout.shape.items())) for layout in layouts}) == 1
    changed = layouts[1].changed_since(layouts[0])
    assert {"label": "In use by attic", "visible": True} in changed.values()
    assert layouts[0].changed_since(layouts[0]) == {}


def test_numbers_stay_when_the_shape_changes() -> None:
    numbers = MenuNumbers()
    before, after = (menu_layout(face(moment).menu, numbers) for moment in (AWAY, SHARING))
    assert before.shape != after.shape
    for number in before.properties.keys() & after.properties.keys() - {ROOT}:
        assert before.properties[number].get("toggle-type") == after.properties[number].get("toggle-type")
    quit_numbers = [
        [number for number, action in layout.actions.items() if action == Quit()] for layout in (before, after)
    ]
    assert quit_numbers[0] == quit_numbers[1]


def test_underscores_are_no_access_keys() -> None:
    labels = [
        properties.get("label") for properties in menu_layout(face(SHARING).menu, MenuNumbers()).properties.values()
    ]
    assert "llama__3-8b" in labels


@pytest.mark.parametrize(
    ("hour", "days", "expected_hour"),
    [(12, 1, 8), (23, 1, 8), (2, 0, 8), (5, 1, 8)],
    ids=["noon", "late", "night", "early"],
)
def test_tomorrow_begins_at_eight(hour: int, days: int, expected_hour: int) -> None:
    now = time.mktime((2026, 12, 31, hour, 0, 0, 0, 0, -1))
    end = time.localtime(pause_until(Pause(None), now))
    assert (end.tm_hour, end.tm_yday) == (expected_hour, 1 if days else 365)


def test_pauses_of_so_long() -> None:
    assert pause_until(Pause(1800), 1000.0) == 2800.0
    assert pause_until(Pause(0), 1000.0) == 0.0
