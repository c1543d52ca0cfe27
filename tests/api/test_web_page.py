"""The page at ``/`` in a real browser: what it shows, what it asks, and what cannot be done to it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from peerllm.api.node_services import ModelCard
from peerllm.config import ApiConfig, Config
from peerllm.errors import NoPeers
from peerllm.local.accounts import RouteChange
from peerllm.local.schema import LifecycleState, MembershipStatus
from tests.support.browser import Browser, browser, why_no_browser
from tests.support.running_api import TOKEN, RunningApi, eventually, running_api
from tests.support.swarm_node import Script, SwarmNode, peer
from tests.support.web_command import page_of, web_command
from tests.support.whole_model_node import MODEL, WholeModel

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or "")

ANY_PORT = replace(Config(), api=ApiConfig(port=0))
WHOLE = (peer("attic", "0:14", 0.8), peer("cellar", "12:30", 3.4))
WIDE, NARROW = (1280, 860), (360, 740)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def open_browser() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def window(open_browser: Browser) -> Browser:
    """As if nobody had been there, whatever the test before has left."""
    open_browser.forget()
    open_browser.look_like(*WIDE)
    return open_browser


@pytest.fixture
def node() -> SwarmNode:
    """One of a swarm of three; a test says what it answers."""
    return SwarmNode(None, WHOLE)


@pytest.fixture
def api(node: SwarmNode) -> Iterator[RunningApi]:
    with running_api(ANY_PORT, stand_in=node) as running:
        yield running


@pytest.fixture
def page(window: Browser, api: RunningApi) -> Iterator[Browser]:
    """Opened as `peerllm web` does it. Whatever a test does there: nothing is fetched from elsewhere, nothing fails."""
    window.open(page_of(api))
    assert window.shows(".peers li", "attic"), window.complaints()
    yield window
    assert [address for address in window.requested() if not address.startswith(f"{api.url}/")] == []
    assert window.complaints() == []


def ask(page: Browser, question: str) -> None:
    page.one("#question").send_keys(f"{question}\n")


def stop_by_key(page: Browser) -> None:
    """Nothing happens if the answer has ended meanwhile."""
    page.one("#question").send_keys(Keys.ESCAPE)


def answered(page: Browser) -> str:
    """The last answer's text, once it has ended."""
    assert page.eventually(lambda: bool(page.all(".answer:last-child:not([aria-busy])"))), page.text("#turns")
    return page.text(".answer:last-child .text")


def test_without_a_token_it_shows_nothing_and_says_what_to_do(window: Browser, api: RunningApi) -> None:
    window.open(f"{api.url}/")
    assert window.shows("#lock", "peerllm web --print")
    assert not window.one("main").is_displayed()
    window.one("#token").send_keys("not-the-token\n")
    assert window.shows("#lock-reason", "does not know this token")
    assert "attic" not in str(window.driver.page_source)
    window.one("#token").send_keys(f"{page_of(api)}\n")
    assert window.shows(".peers li", "attic")


def test_address_lets_one_tab_in_and_is_worth_nothing_then(page: Browser, api: RunningApi) -> None:
    assert page.driver.current_url == f"{api.url}/"
    assert TOKEN not in str(page.driver.page_source)
    assert page.script("return localStorage.length + document.cookie.length") == 0
    page.driver.refresh()
    assert page.shows(".peers li", "attic")
    assert not any(TOKEN in address or "code" in address for address in page.requested())
    used = page_of(api)
    page.open(used)
    assert page.shows(".peers li", "attic")
    page.forget()
    page.open(used)
    assert page.shows("#lock-reason", "this address was used before")
    page.forget()  # the browser itself logs each 401


def test_a_new_token_asked_for_by_a_restart_unlocks_the_open_tab(page: Browser, api: RunningApi) -> None:
    page.script("sessionStorage.setItem('peerllm.token', 'of-an-earlier-daemon')")
    page.click("#share")
    page.driver.refresh()
    assert page.shows("#lock-reason", "new at every start")
    assert page.eventually(lambda: any("401" in complaint for complaint in page.complaints()))
    page.script(f"location.hash = '{page_of(api).partition('#')[2]}'")
    assert page.shows(".peers li", "attic")
    page.forget()  # the browser itself logs each 401


def test_the_way_in_by_a_file_hides_the_token_from_other_users(
    window: Browser, api: RunningApi, tmp_path: Path
) -> None:
    opener = tmp_path / "browser"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" >{tmp_path}/opened\n')
    opener.chmod(0o700)
    told = web_command(api, tmp_path, env={"BROWSER": str(opener)})
    assert told.returncode == 0, told.stderr
    opened = (tmp_path / "opened").read_text()
    assert opened.startswith("file://")
    assert TOKEN not in told.stdout + opened
    assert (tmp_path / "state" / "page.html").stat().st_mode & 0o777 == 0o600
    window.open(opened)
    assert window.shows(".peers li", "attic")
    assert window.driver.current_url == f"{api.url}/"


def test_whole_model_answers_in_pieces(window: Browser, whole_model: WholeModel) -> None:
    with running_api(ANY_PORT, stand_in=SwarmNode(whole_model, WHOLE)) as api:
        window.open(page_of(api))
        assert window.shows(".peers li", "attic")
        ask(window, "Why is the sky blue? One sentence.")
        assert window.shows(".answer .text", " ")
        stop_by_key(window)
        first = answered(window)
        ask(window, "Say it again.")
        assert window.shows(".answer:last-child .text", " ")
        stop_by_key(window)
        assert answered(window)
        asked = api.node.asked[-1].prompt.messages  # type: ignore[union-attr]  # chats ask in messages
        assert [message["role"] for message in asked] == ["user", "assistant", "user"]
        # Words alone: the page shows the numbers, stars and bars of Markdown in its own way.
        assert _words(asked[1]["content"])[:3] == _words(first)[:3]
        assert eventually(lambda: api.node.answering == 0)
        assert window.complaints() == []


def test_answer_says_how_fast_it_was_and_who_saw_the_prompt(page: Browser, node: SwarmNode) -> None:
    route = ("0:12@12D3KooWattic", "12:18@12D3KooWAlone", "18:30@12D3KooWcellar")
    node.script = Script(("The ", "sky ", "is ", "blue."), peers=("attic", "cellar"), route=route)
    ask(page, "Why?")
    assert answered(page) == "The sky is blue."
    assert page.text(".answer .note") == "This prompt's hidden states were seen by attic and cellar."
    assert page.text(".hop").split("\n") == ["0:12 attic", "12:18 this machine", "18:30 cellar"]
    assert page.text(".about .fine").startswith("4 tokens · ")
    assert "first token after 0.16 s" in page.text(".about .fine")


def test_a_lost_hop_is_named_among_those_who_saw_the_prompt(page: Browser, node: SwarmNode) -> None:
    lost = RouteChange(1, "12D3KooWcellar", "cellar", "the stream broke")
    node.script = Script(("Blue.",), route=("0:30@12D3KooWattic",), lost=(lost,))
    ask(page, "Why?")
    assert answered(page) == "Blue."
    assert page.text(".answer .note") == "This prompt's hidden states were seen by attic and cellar."
    assert "1 lost hop replaced" in page.text(".about .fine")


def test_waiting_is_explained_and_stopping_frees_the_answer(page: Browser, node: SwarmNode) -> None:
    node.script = Script((), waiting="waiting up to 20 s for peers: nobody serves blocks 18:30", waiting_s=60)
    ask(page, "Why?")
    assert page.eventually(lambda: node.answering == 1)
    assert page.shows(".answer .note", "nobody serves blocks 18:30")
    page.click("#stop")
    assert eventually(lambda: node.answering == 0)
    assert page.shows(".answer .about", "Stopped.")
    assert page.one("#send").is_displayed()
    assert node.finished == 0


def test_closing_the_tab_frees_the_answer(page: Browser, node: SwarmNode) -> None:
    node.script = Script(("word ",) * 1000, apart_s=0.05)
    ask(page, "Why?")
    assert page.shows(".answer .text", "word word")
    page.open("about:blank")
    assert eventually(lambda: node.answering == 0)


def test_failure_is_shown_in_the_api_s_words_and_can_be_tried_again(page: Browser, node: SwarmNode) -> None:
    node.script = Script((), failure=NoPeers(f"nobody serves blocks 18:30 of {MODEL}"))
    ask(page, "Why?")
    assert page.shows(".answer .alert", f"nobody serves blocks 18:30 of {MODEL}")
    assert page.eventually(lambda: any("503" in complaint for complaint in page.complaints()))
    page.complaints().clear()  # the browser itself logs each 503
    node.script = Script(("Now ", "it works."))
    page.click(".answer .alert button")
    assert answered(page) == "Now it works."
    assert len(page.all(".answer")) == len(page.all(".question")) == 1


def test_new_chat_forgets(page: Browser, node: SwarmNode) -> None:
    node.script = Script(("Blue.",))
    ask(page, "Why?")
    assert answered(page) == "Blue."
    page.click("#new-chat")
    assert page.all("#turns > li") == []
    ask(page, "And now?")
    answered(page)
    assert len(node.asked[-1].prompt.messages) == 1  # type: ignore[union-attr]  # chats ask in messages


def test_shift_enter_breaks_the_line(page: Browser, node: SwarmNode) -> None:
    node.script = Script(("Yes.",))
    page.one("#question").send_keys("one", f"{Keys.SHIFT}{Keys.ENTER}{Keys.NULL}", "two\n")
    answered(page)
    assert node.asked[-1].prompt.messages[0]["content"] == "one\ntwo"  # type: ignore[union-attr]  # as above


MARKDOWN = """# Title

First **bold** and `code <b>`.

1. one
   - inner
2. two

```python
if a < b:
    print("<script>")
```
last ` tick"""


def test_markdown_becomes_elements(page: Browser, node: SwarmNode) -> None:
    node.script = Script(tuple(MARKDOWN))
    ask(page, "Why?")
    answered(page)
    shown = page.one(".answer .text")
    tags = page.script("return [...document.querySelectorAll('.answer .text > *')].map((each) => each.localName)")
    assert tags == ["p", "p", "ol", "pre", "p"]
    assert page.text(".answer .text > p > strong").split("\n") == ["Title", "bold"]
    assert page.text(".answer .text > p > code") == "code <b>"
    assert page.text(".answer .text ol ul") == "inner"
    assert page.text(".answer pre") == 'if a < b:\n    print("<script>")'
    assert shown.text.endswith("last ` tick")


def test_hostile_names_and_answers_stay_text(page: Browser, node: SwarmNode) -> None:
    node.others = (peer(HOSTILE, "0:30", state="online"), peer("x", "0:4", model=HOSTILE))
    node.lifecycle = LifecycleState("serving", 0.0, None, HOSTILE)
    node.membership = MembershipStatus(problem=HOSTILE)
    node.tell("peers")
    assert page.shows(".peers .name", HOSTILE)
    hostile = f"{HOSTILE}\n\n- {HOSTILE}\n\n```{HOSTILE}\n{HOSTILE}\n```\n`{HOSTILE}` [x](javascript:alert(1))"
    node.script = Script((hostile,), reasoning=HOSTILE, peers=(HOSTILE,), route=(f"0:30@{HOSTILE}",))
    ask(page, HOSTILE)
    assert HOSTILE in answered(page)
    assert page.all("main img, main script, main a, main iframe") == []
    assert page.driver.title == "peerllm"
    assert all(HOSTILE in page.text(place) for place in ("#map", "#life", "#membership"))
    with pytest.raises(Exception, match="TrustedHTML"):
        page.script("document.body.innerHTML = '<b>markup</b>'")
    assert any("TrustedHTML" in complaint for complaint in page.complaints())
    page.complaints().clear()


def test_picker_lists_models_with_their_state(page: Browser, node: SwarmNode) -> None:
    assert page.text("#model-state") == "ready"
    loading = ModelCard("bigger-model", 1, "peerllm", "loading", 512, fraction=0.45, eta_s=11.2)
    node.more_models = (ModelCard("huge-model", 1, "peerllm", "loadable", None), loading)
    node.tell("peers")
    assert page.eventually(lambda: len(page.all("#model option")) == 3)
    groups = "return [...document.querySelectorAll('#model optgroup')].map((each) => [each.label, each.textContent])"
    assert page.script(groups) == [["ready", MODEL], ["loading", "bigger-model"], ["loadable", "huge-model"]]
    assert page.one("#model").get_property("value") == MODEL
    page.click("#model option[value=bigger-model]")
    assert page.shows("#model-state", "loading 45 %, 12 s left")
    page.click("#model option[value=huge-model]")
    assert page.shows("#model-state", "will be loaded when asked")
    node.script = Script(("Loaded.",))
    ask(page, "Who are you?")
    assert answered(page) == "Loaded."
    assert node.asked[-1].model == "huge-model"


def test_map_shows_who_serves_what_and_reacts_to_an_event(page: Browser, node: SwarmNode) -> None:
    assert len(page.all(".blocks i")) == 30
    assert len(page.all(".blocks .by-2")) == 2
    assert page.text(".peers li").split("\n") == ["attic", "0:14 · 0.8 ms away", "cellar", "12:30 · 3.4 ms away"]
    node.others = (WHOLE[0], peer("cellar", "14:30", None, state="loading"))
    node.tell("peers")
    assert page.eventually(lambda: len(page.all(".blocks .hole")) == 16, within_s=5)
    assert page.shows("#map .alert", "Nobody serves blocks 14:30")
    assert page.one(".blocks").get_attribute("aria-label") == "14 of 30 blocks served; nobody serves 14:30"
    assert page.text(".peers li:last-child .quiet") == "14:30 · loading · not measured"


def test_switch_lends_this_machine_and_shows_what_came_of_it(page: Browser, node: SwarmNode) -> None:
    assert page.text("#lent") == "Off. You can ask all the same."
    node.span = "6:18"
    page.click("#share")
    assert page.shows("#lent", "Blocks 6:18 of 30")
    assert node.sharing
    assert page.one("#share").get_attribute("aria-checked") == "true"
    assert page.shows(".peers li", "alone (you)")
    page.click("#share")
    assert page.eventually(lambda: page.one("#share").get_attribute("aria-checked") == "false")
    assert not node.sharing


def test_loading_shows_how_far_it_is(page: Browser, node: SwarmNode) -> None:
    node.lifecycle = LifecycleState("downloading", 0.0, 0.62, "blocks 6:18")
    node.tell("lifecycle", node.lifecycle.to_json())
    assert page.shows("#connection", "downloading 62 %")
    assert page.text("#life") == "downloading 62 %: blocks 6:18"
    assert page.one("#progress").get_property("value") == pytest.approx(0.62)
    node.lifecycle = LifecycleState("serving", 0.0, None, "blocks 6:18")
    node.tell("lifecycle", node.lifecycle.to_json())
    assert page.shows("#connection", "serving")
    assert page.one("#progress").value_of_css_property("visibility") == "hidden"


def test_membership_is_told(page: Browser, node: SwarmNode) -> None:
    assert "home, private" in page.text("#membership")
    node.membership = MembershipStatus(public=True)
    node.tell("peers")
    assert page.shows("#membership", "home, public")
    assert "read what passes through it" in page.text("#membership .alert")


def test_narrow_windows_show_one_view_at_a_time(page: Browser, node: SwarmNode) -> None:
    node.script = Script((MARKDOWN, "\n\n```\n", "wide " * 100, "\n```"))
    page.look_like(*NARROW)
    ask(page, "Why?")
    answered(page)
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.script(overflow) == 0
    assert not page.one("#swarm").is_displayed()
    page.click("#views [data-view=swarm]")
    assert page.one("#swarm").is_displayed()
    assert not page.one("#chat").is_displayed()
    assert page.script(overflow) == 0


def test_nothing_jumps(page: Browser, node: SwarmNode) -> None:
    shift = """
        return new Promise((resolve) => new PerformanceObserver((list) =>
            resolve(list.getEntries().reduce((sum, entry) => sum + entry.value, 0)))
            .observe({type: "layout-shift", buffered: true}) || setTimeout(() => resolve(0), 500))
    """
    assert page.script(shift) < 0.02  # type: ignore[operator]  # a number


def test_it_takes_up_again_after_the_daemon_was_away(window: Browser, node: SwarmNode) -> None:
    with running_api(ANY_PORT, stand_in=node) as api:
        window.open(page_of(api))
        assert window.shows(".peers li", "attic")
    assert window.shows("#connection", "no daemon, trying again")
    back = SwarmNode(None, (peer("newcomer", "0:30"),))
    with running_api(replace(Config(), api=ApiConfig(port=api.port)), stand_in=back) as again:
        assert again.port == api.port
        assert window.shows(".peers li", "newcomer")
        started = time.monotonic()
        window.click("#share")
        assert eventually(lambda: back.sharing), time.monotonic() - started


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)
