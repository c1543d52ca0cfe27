import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm.serving.contribution import (
    Action,
    Chosen,
    Contribution,
    Drained,
    Event,
    Failed,
    GoOn,
    Held,
    Invited,
    LentAnew,
    Loaded,
    Moved,
    Moving,
    Parted,
    Phase,
    Released,
    SwitchedOff,
    SwitchedOn,
    Warmed,
    advance,
)
from peerllm_swarm.span import BlockSpan

SPAN = BlockSpan(0, 12)
UP: list[Event] = [SwitchedOn(), Chosen(SPAN), Loaded(), Warmed()]
EVENTS: list[Event] = [
    SwitchedOn(),
    SwitchedOff("owner"),
    Chosen(SPAN),
    Loaded(),
    Warmed(),
    Failed("no memory"),
    Moving("a hole"),
    Moved(BlockSpan(4, 16)),
    Drained(),
    SwitchedOff("owner", finish=True),
    Held("busy"),
    Released("busy"),
    GoOn(),
    LentAnew(),
    Invited("serves in the group of Tower"),
    Parted("the group is dissolved"),
]


def after(*events: Event) -> tuple[Contribution, Action | None]:
    state, action = Contribution(), None
    for event in events:
        state, action = advance(state, event)
    return state, action


@pytest.mark.parametrize(
    ("events", "phase", "action"),
    [
        ([SwitchedOn()], Phase.CHOOSING, Action.CHOOSE),
        ([SwitchedOn(), Chosen(SPAN)], Phase.LOADING, Action.LOAD),
        ([SwitchedOn(), Chosen(SPAN), Loaded()], Phase.WARMING, Action.WARM),
        ([SwitchedOn(), Chosen(SPAN), Loaded(), Failed("cuda")], Phase.CHOOSING, Action.CHOOSE_LATER),
        ([*UP], Phase.SERVING, Action.SERVE),
        ([*UP, Invited("Tower")], Phase.GROUPED, Action.FOLLOW),
        ([SwitchedOn(), Invited("Tower")], Phase.GROUPED, Action.FOLLOW),
        ([SwitchedOn(), Chosen(SPAN), Invited("Tower")], Phase.LOADING, None),
        ([*UP, Held("busy"), Invited("Tower")], Phase.PAUSED, None),
        ([Invited("Tower")], Phase.OFF, None),
        ([*UP, Invited("Tower"), Parted("gone")], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Invited("Tower"), Failed("no memory")], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Invited("Tower"), SwitchedOff("owner", finish=True)], Phase.OFF, Action.STOP),
        ([*UP, Invited("Tower"), Held("busy")], Phase.PAUSED, Action.STOP),
        ([*UP, Invited("Tower"), Held("busy"), GoOn()], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Invited("Tower"), LentAnew()], Phase.CHOOSING, Action.CHOOSE),
        ([SwitchedOn(), Chosen(SPAN), Failed("disk")], Phase.CHOOSING, Action.CHOOSE_LATER),
        ([SwitchedOn(), SwitchedOff("busy")], Phase.OFF, Action.STOP),
        ([SwitchedOn(), Chosen(SPAN), SwitchedOff("busy")], Phase.OFF, Action.STOP),
        ([*UP, SwitchedOff("busy")], Phase.DRAINING, Action.DRAIN),
        ([*UP, SwitchedOff("busy"), Drained()], Phase.OFF, None),
        (
            [*UP, SwitchedOff("busy"), SwitchedOn(), Drained()],
            Phase.CHOOSING,
            Action.CHOOSE,
        ),
        ([*UP, Moving("a hole")], Phase.DRAINING, Action.DRAIN),
        ([*UP, Moving("a hole"), Drained()], Phase.CHOOSING, Action.CHOOSE),
        ([SwitchedOn(), Loaded()], Phase.CHOOSING, None),
        ([Drained()], Phase.OFF, None),
        ([*UP, Held("busy")], Phase.PAUSED, Action.HOLD),
        ([*UP, Held("busy"), Held("still busy")], Phase.PAUSED, None),
        ([*UP, Held("busy"), GoOn()], Phase.SERVING, Action.SERVE),
        ([*UP, Held("busy"), Released("for long")], Phase.PAUSED, Action.RELEASE),
        ([*UP, Held("busy"), Released("for long"), GoOn()], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Held("busy"), SwitchedOff("owner")], Phase.OFF, Action.STOP),
        ([*UP, Held("busy"), SwitchedOn()], Phase.PAUSED, None),
        ([*UP, Held("busy"), LentAnew()], Phase.PAUSED, Action.RELEASE),
        ([*UP, Held("busy"), LentAnew(), GoOn()], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Held("busy"), Moving("too late")], Phase.PAUSED, None),
        ([*UP, Released("no memory")], Phase.PAUSED, Action.RELEASE),
        ([*UP, Released("no memory"), GoOn()], Phase.CHOOSING, Action.CHOOSE),
        ([SwitchedOn(), Held("busy")], Phase.PAUSED, Action.STOP),
        ([SwitchedOn(), Chosen(SPAN), Held("busy")], Phase.PAUSED, Action.STOP),
        ([SwitchedOn(), Chosen(SPAN), Held("busy"), Loaded()], Phase.PAUSED, None),
        ([SwitchedOn(), Chosen(SPAN), Held("busy"), Failed("disk")], Phase.PAUSED, None),
        ([SwitchedOn(), Chosen(SPAN), Held("busy"), GoOn()], Phase.CHOOSING, Action.CHOOSE),
        ([*UP, Moving("a hole"), Held("busy")], Phase.PAUSED, Action.STOP),
        ([*UP, SwitchedOff("owner"), Held("busy")], Phase.OFF, Action.STOP),
        ([Held("busy")], Phase.OFF, None),
        ([*UP, GoOn()], Phase.SERVING, None),
        ([*UP, LentAnew()], Phase.DRAINING, Action.DRAIN),
        ([*UP, LentAnew(), Drained()], Phase.CHOOSING, Action.CHOOSE),
        ([SwitchedOn(), Chosen(SPAN), LentAnew()], Phase.CHOOSING, Action.CHOOSE),
        ([LentAnew()], Phase.OFF, None),
        ([*UP, SwitchedOff("owner", finish=True)], Phase.DRAINING, Action.FINISH),
        ([*UP, SwitchedOff("owner", finish=True), Drained()], Phase.OFF, None),
        ([*UP, SwitchedOff("owner", finish=True), SwitchedOn()], Phase.SERVING, Action.SERVE),
        ([*UP, SwitchedOff("owner", finish=True), SwitchedOff("now")], Phase.DRAINING, Action.DRAIN),
        ([*UP, SwitchedOff("owner", finish=True), Held("busy")], Phase.OFF, Action.STOP),
    ],
)
def test_life_of_a_contribution(events: list[Event], phase: Phase, action: Action | None) -> None:
    state, last = after(*events)
    assert (state.phase, last) == (phase, action)


def test_the_reason_for_not_serving_is_kept() -> None:
    assert after(*UP, SwitchedOff("on battery"), Drained())[0].reason == "on battery"


def test_a_pause_says_why_and_keeps_the_span_until_it_is_released() -> None:
    paused = after(*UP, Held("you are using this computer"), Held("on battery"))[0]
    assert (paused.reason, paused.span, paused.wanted) == ("on battery", SPAN, True)
    released = after(*UP, Held("on battery"), Released("on battery, for long"))[0]
    assert (released.reason, released.span, released.wanted) == ("on battery, for long", None, True)


def test_a_span_that_was_moved_to_as_the_pause_began_is_the_one_that_is_kept() -> None:
    assert after(*UP, Held("busy"), Moved(BlockSpan(4, 16)))[0].span == BlockSpan(4, 16)


_WITH_SPAN = (Phase.LOADING, Phase.WARMING, Phase.SERVING, Phase.DRAINING)


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_no_order_of_events_leaves_a_state_without_a_way_on(events: list[Event]) -> None:
    state, _ = after(*events)
    assert (state.span is not None) == (state.phase in _WITH_SPAN) or state.phase is Phase.PAUSED
    assert state.wanted or state.phase in (Phase.OFF, Phase.DRAINING)
    assert state.wanted is False or state.phase is not Phase.OFF
    assert not state.finishing or (state.phase is Phase.DRAINING and not state.wanted)


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_whoever_holds_it_finds_it_serving_nobody(events: list[Event]) -> None:
    held, _ = advance(after(*events)[0], Held("busy"))
    assert held.phase in (Phase.OFF, Phase.PAUSED)
