"""The chat: conversations in a sidebar, turns, the question box, and what the last answer took."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, cast

from textual import on, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Footer

from peerllm.errors import BadHistory
from peerllm.local.inert_text import inert
from peerllm_tui.app import Facts, PeerllmApp
from peerllm_tui.asking import AnswerOver, Asking
from peerllm_tui.chat_commands import chat_commands
from peerllm_tui.code_blocks import CodeCopier
from peerllm_tui.conversation import Conversation, Sampling
from peerllm_tui.conversation_list import ConversationList
from peerllm_tui.facts_line import FactsLine
from peerllm_tui.model_picker import ModelPicker
from peerllm_tui.question_box import QuestionBox
from peerllm_tui.turn_list import TurnList
from peerllm_tui.wording import NO_MODEL, STOPPED

_SIDEBAR_WIDTH = 90  # columns from which the sidebar is open at first
_UNDER_WAY = "an answer is under way; Esc stops it"


class ChatScreen(Screen[None]):
    TITLE = "Chat"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+n", "new", "New", priority=True),
        Binding("ctrl+o", "pick_model", "Model", priority=True),
        Binding("ctrl+s", "terms", "Settings"),
        Binding("ctrl+r", "again", "Again", priority=True),
        Binding("f5", "copy_answer", "Copy", priority=True),
        Binding("f6", "copy_code", "Copy code", show=False, priority=True),
        Binding("ctrl+b", "sidebar", "List", priority=True),
        Binding("ctrl+f", "search", "Search", show=False, priority=True),
        Binding("pageup", "scroll(-1)", "Up", show=False, priority=True),
        Binding("pagedown", "scroll(1)", "Down", show=False, priority=True),
    ]
    CSS = """
    ChatScreen ConversationList { display: none; }
    ChatScreen.-listing ConversationList { display: block; }
    """
    VERTICAL_BREAKPOINTS = [(0, "-short"), (24, "-tall")]  # noqa: RUF012  # as Textual declares it

    def __init__(self) -> None:
        super().__init__()
        self._conversation = Conversation()
        self._asking: Asking | None = None  # for the answer under way
        self._code = CodeCopier()

    @property
    def peerllm(self) -> PeerllmApp:
        return cast("PeerllmApp", self.app)

    @property
    def conversation(self) -> Conversation:
        """What is on the screen."""
        return self._conversation

    @property
    def is_answering(self) -> bool:
        return self._asking is not None

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield ConversationList(self.peerllm.history)
            with Vertical():
                yield ModelPicker(self.peerllm.first_model)
                yield TurnList()
                yield FactsLine()
                yield QuestionBox("Your question")
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        self._sidebar = self.query_one(ConversationList)
        self._picker = self.query_one(ModelPicker)
        self._turns = self.query_one(TurnList)
        self._facts = self.query_one(FactsLine)
        self._box = self.query_one(QuestionBox)
        self.set_class(self.app.size.width >= _SIDEBAR_WIDTH, "-listing")
        await self._turns.show(self._conversation)
        self.watch(self.app, "facts", self._take_facts)
        self._box.focus()

    def on_unmount(self) -> None:
        if self._asking is None:
            return
        self._asking.stop()
        with suppress(BadHistory):  # nobody is there to be told
            self.peerllm.history.save(self._conversation.answered(self._turns.answer_so_far, STOPPED))

    def get_commands(self) -> Iterable[SystemCommand]:
        return chat_commands(self)

    def _take_facts(self, facts: Facts | None) -> None:
        if facts is not None:
            self._picker.show(facts.models)

    @on(QuestionBox.Asked)
    async def _ask(self, event: QuestionBox.Asked) -> None:
        if self._asking is not None:
            self._say(_UNDER_WAY)
            return
        if not self._picker.chosen:
            self._say(self.peerllm.problem if self.peerllm.facts is None else NO_MODEL)
            return
        before = self._conversation.without_last_question() if event.anew else self._conversation
        self._conversation = replace(before.asked(event.text), model=self._picker.chosen)
        self._box.empty()
        await self._turns.show(self._conversation)
        await self._begin_answer()

    async def action_again(self) -> None:
        """Another answer to the last question, or a first one."""
        if self._asking is not None or not self._conversation.last_question or not self._picker.chosen:
            return
        self._conversation = replace(self._conversation.without_last_answer(), model=self._picker.chosen)
        await self._turns.show(self._conversation)
        await self._begin_answer()

    async def _begin_answer(self) -> None:
        self._conversation = self._sidebar.keep(self._conversation)
        self._facts.say("")
        facts = self.peerllm.facts
        own_id = facts.status.peer_id if facts is not None else ""
        self._asking = Asking(self.peerllm.daemon, self._conversation)
        await self._turns.begin_answer(self._asking, own_id)

    @on(AnswerOver)
    def _end_answer(self, event: AnswerOver) -> None:
        """What there is of the answer belongs to the conversation, however it ended."""
        if event.asking is not self._asking:
            return
        if event.ended is not None:
            self._facts.tell(event.ended, self._picker.context_tokens)
        self._asking = None
        self._code.restart()
        if event.text:
            self._conversation = self._sidebar.keep(self._conversation.answered(event.text, event.remark))

    def action_stop(self) -> None:
        """Stop the answer, or leave what is being done instead of asking."""
        if self._asking is not None:
            self._asking.stop()
        elif self._box.is_editing:
            self._box.empty()
        self._box.focus()

    @on(QuestionBox.EditLast)
    def action_edit_last(self) -> None:
        """The last question back into the box; sending it replaces the question and its answer."""
        question = self._conversation.last_question
        if self._asking is not None or not question:
            return
        self._box.write_anew(question)
        self._facts.say("editing the last question: Enter asks it anew, Esc leaves it")

    @on(ConversationList.Chosen)
    async def _choose(self, event: ConversationList.Chosen) -> None:
        await self._open(event.conversation)

    async def action_new(self) -> None:
        """By the terms of the present one."""
        await self._open(Conversation(system=self._conversation.system, sampling=self._conversation.sampling))

    async def _open(self, conversation: Conversation) -> None:
        if self._asking is not None:
            self._say(_UNDER_WAY)
            return
        self._conversation = conversation
        self._box.leave_edit()
        self._code.restart()
        self._picker.prefer(conversation.model)
        self._facts.say("")
        await self._turns.show(conversation)
        self._sidebar.show(conversation.id)
        self._box.focus()

    @on(ConversationList.Renamed)
    def _take_title(self, event: ConversationList.Renamed) -> None:
        if event.conversation_id == self._conversation.id:
            self._conversation = replace(self._conversation, title=event.title)

    @on(ConversationList.Deleted)
    async def _leave_deleted(self, event: ConversationList.Deleted) -> None:
        if event.conversation_id not in (0, self._conversation.id):
            return
        if self._asking is not None:
            self._asking.stop()
            self._asking = None
        await self._open(Conversation())

    @work
    async def action_terms(self) -> None:
        """System prompt and sampling of this conversation and those begun after it."""
        from peerllm_tui.dialogs import Terms

        now = self._conversation
        terms = await self.app.push_screen_wait(Terms(now.system, now.sampling))
        if terms is not None:
            self._take_terms(*terms)

    def _take_terms(self, system: str, sampling: Sampling) -> None:
        self._conversation = replace(self._conversation, system=system, sampling=sampling)
        if self._conversation.id:
            self._conversation = self._sidebar.keep(self._conversation)

    def action_copy_answer(self) -> None:
        answer = self._turns.answer_so_far if self._asking else self._conversation.last_answer
        if answer:
            self.app.copy_to_clipboard(answer)
            self._say("the answer is copied")

    def action_copy_code(self) -> None:
        """The last block of code; once more for the one before it."""
        code, said = self._code.next(self._conversation.last_answer)
        if code:
            self.app.copy_to_clipboard(code)
        self._say(said)

    def action_pick_model(self) -> None:
        self._picker.focus()
        self._picker.action_show_overlay()

    def action_sidebar(self) -> None:
        self.toggle_class("-listing")
        if self.has_class("-listing"):
            self._sidebar.browse()
        else:
            self._box.focus()

    def action_search(self) -> None:
        self.add_class("-listing")
        self._sidebar.search()

    def action_scroll(self, pages: int) -> None:
        (self._turns.scroll_page_up if pages < 0 else self._turns.scroll_page_down)(animate=False)

    @on(ModelPicker.Changed)
    def _model_picked(self) -> None:
        self._box.focus()

    def _say(self, text: str) -> None:
        self.notify(inert(text), markup=False)
