"""The guesses of one answer: what the text offers first, a small model where it offers nothing, as many as pay."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from peerllm.generation.answer import AnswerEvent, Delta, Finished
from peerllm.generation.drafting.acceptance import Acceptance, Kind, Source
from peerllm.generation.drafting.costs import RoundCost, round_cost
from peerllm.generation.drafting.drafter import MOST_AHEAD, Plan, Verified
from peerllm.generation.drafting.length import (
    EXPLORING_ROWS,
    GAIN_TO_BEGIN,
    LOOK_EVERY,
    Choice,
    best_length,
    exploring_length,
    length_ahead,
    most_gain,
)
from peerllm.generation.drafting.lookup import Lookup

if TYPE_CHECKING:
    from peerllm.generation.drafting.draft_model import Guess

UNKNOWN_COST = RoundCost(3.0, 1.0)
"""Before the first round of an answer has come back; only the ratio counts."""

MANY_ROUNDS, COUNT_EVERY = 16, 4
"""Behind so many rounds what they cost is counted anew at every so manieth: medians take a tenth of a millisecond."""

READ_AT_ONCE = 1024
"""New tokens that take some milliseconds to index; more must not keep the event loop."""

SURE_OF_ANOTHER = 4
"""Tokens that must agree for an answer not to be taken to begin as its prediction does."""

FIRST_MODEL_CHANCE, MODEL_MEMORY = 0.6, 8
"""How likely a model's guesses are taken to hold before the first, and over how many drafts that is learned."""


class Proposer(Protocol):
    """A model that continues texts (`draft_model.DraftSession`)."""

    @property
    def token_ms(self) -> float:
        """What one guess takes."""
        ...

    async def propose(self, tokens: Sequence[int], at_most: int) -> Sequence[Guess]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Draft:
    """Guesses at the tokens from `start` on, each of a kind; the first `sent` of them are on their way."""

    start: int
    tokens: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ()
    sent: int = 0

    def behind(self, count: int) -> Draft:
        """What is left of it behind so many guesses."""
        return Draft(self.start + count, self.tokens[count:], self.kinds[count:], max(0, self.sent - count))

    def judged(self, tokens: Sequence[int]) -> list[tuple[Kind, bool]]:
        """The kinds of the guesses that have come out, as far as the first that did not hold."""
        actual = tokens[self.start : self.start + len(self.tokens)]
        held = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self.tokens, actual, strict=False))))
        return [(kind, at < held) for at, kind in enumerate(self.kinds[: min(held + 1, len(actual))])]


class AnswerDrafter:
    """`Drafter` and, as `plan`, `Policy` of one answer.

    Guesses that are not worth sending are made all the same, since they cost nothing: so it is known what they
    would be worth once the network or the text changes.
    """

    def __init__(
        self,
        acceptance: Acceptance,
        *,
        prediction: Sequence[int] = (),
        model: Proposer | None = None,
        max_length: int,
        ended: Callable[[Finished], None] | None = None,
    ) -> None:
        """`acceptance` is that of earlier answers, `prediction` a text that the answer may be like.

        `ended` is told of the end of the answer.
        """
        self._acceptance = Acceptance(acceptance)
        self._lookup = Lookup([prediction] if prediction else [])
        self._model = model
        self._max_length = max_length
        self._ended = ended
        self._cost = UNKNOWN_COST
        self._settled = 0
        self._looked_at = -1
        self._plans = 0
        self._begun = False
        self._under_way: list[Draft] = []
        self._model_chance = FIRST_MODEL_CHANCE
        self._sends = False  # are guesses under way, or were they in the last round?
        self._idle_rounds = self._explored = 0
        self._latest: list[int] = []  # the prompt and the answer, as far as it is certain
        self._accepted_prediction = self._rejected_prediction = 0

    def plan(self, rounds: Sequence[Verified]) -> Plan:
        """Always room for guesses: `propose` knows what they are worth and has none where they are not."""
        self._plans += 1
        if len(rounds) < MANY_ROUNDS or self._plans % COUNT_EVERY == 0:
            self._cost = round_cost(rounds) or UNKNOWN_COST
        return Plan(self._max_length, MOST_AHEAD)

    async def propose(self, tokens: Sequence[int], settled: int, at_most: int) -> Sequence[int]:
        self._latest = list(tokens[:settled])
        if len(tokens) == settled:
            at_most = self._most(settled, at_most)
        if not at_most:
            return ()
        if len(tokens) - self._settled > READ_AT_ONCE:
            await asyncio.to_thread(self._follow, tokens)
        else:
            self._follow(tokens)
        self._judge(tokens, settled)
        held = self._chance_under_way()
        draft, choice = self._copied(len(tokens), at_most, held)
        if self._model is not None:
            draft, choice = await self._from_model(self._model, tokens, at_most, held, (draft, choice))
        self._sends = choice.length > 0 or held is not None
        if self._sends:
            self._idle_rounds = 0
        self._under_way.append(Draft(draft.start, draft.tokens, draft.kinds, choice.length))
        return draft.tokens[: choice.length]

    def _most(self, settled: int, at_most: int) -> int:
        """Guesses for the round behind these tokens: none a second time, and few and seldom where none could pay."""
        if settled == self._looked_at:
            return 0
        self._looked_at = settled
        self._idle_rounds += 1
        if self._sends or most_gain(self._cost, self._max_length) >= GAIN_TO_BEGIN:
            return at_most
        return 0 if self._idle_rounds % LOOK_EVERY else min(at_most, EXPLORING_ROWS)

    def counted(self, event: AnswerEvent) -> AnswerEvent:
        """The same event of the answer; its end says what became of the prediction."""
        if isinstance(event, Delta):
            self._latest.append(event.token)
        if not isinstance(event, Finished):
            return event
        if self._ended is not None:
            self._ended(event)
        self._judge(self._latest, len(self._latest))
        return replace(
            event,
            accepted_prediction_tokens=self._accepted_prediction,
            rejected_prediction_tokens=self._rejected_prediction,
        )

    async def aclose(self) -> None:
        if self._model is not None:
            await self._model.aclose()

    def _follow(self, tokens: Sequence[int]) -> None:
        """Make `tokens` the text that is looked up in; guesses behind others that failed are void."""
        same = self._lookup.agrees(tokens, self._settled)
        self._lookup.cut(same)
        self._lookup.extend(tokens[same:])
        self._under_way = [draft for draft in self._under_way if draft.start <= same]

    def _judge(self, tokens: Sequence[int], settled: int) -> None:
        waiting: list[Draft] = []
        for draft in self._under_way:
            judged = draft.judged(tokens[:settled])
            for at, (kind, held) in enumerate(judged):
                self._note(kind, held, sent=at < draft.sent)
            if all(held for _, held in judged):
                waiting.append(draft.behind(len(judged)))
        self._under_way = [draft for draft in waiting if draft.sent]
        self._settled = settled

    def _note(self, kind: Kind, held: bool, *, sent: bool) -> None:
        self._acceptance.note(kind, held)
        if sent and kind.source is Source.PREDICTION:
            self._accepted_prediction += held
            self._rejected_prediction += not held

    def _chance_under_way(self) -> float | None:
        """That all guesses hold which are sent and not yet settled; None if there are none."""
        kinds = [kind for draft in self._under_way for kind in draft.kinds[: draft.sent]]
        return math.prod(map(self._acceptance.chance, kinds)) if kinds else None

    def _copied(self, start: int, at_most: int, held: float | None) -> tuple[Draft, Choice]:
        match = self._lookup.match()
        if not self._begun and (match is None or match.length < SURE_OF_ANOTHER):
            match = self._lookup.beginning() or match
        self._begun = True
        if match is None:
            return Draft(start), Choice(0, 0.0)
        first = Kind(Source.PREDICTION if match.known else Source.TEXT, match.length, match.follows)
        tokens = tuple(self._lookup.copied(match, at_most))
        draft = Draft(start, tokens, first.run(len(tokens)))
        return draft, self._chosen(draft, held)

    async def _from_model(
        self, model: Proposer, tokens: Sequence[int], at_most: int, held: float | None, copied: tuple[Draft, Choice]
    ) -> tuple[Draft, Choice]:
        """As many guesses as pay at the usual chance, if more than the copied ones do; sent are those that pay."""
        cost = self._cost.with_drafting(model.token_ms) if held is None else self._cost
        usual = self._worth([self._model_chance] * at_most, cost, held)
        if not usual.length or usual.rate <= copied[1].rate:
            return copied
        guesses = await model.propose(tokens, usual.length)
        if not guesses:
            return copied
        kinds = tuple(Kind(Source.MODEL, min(9, int(10 * guess.probability))) for guess in guesses)
        chances = self._acceptance.chances(kinds)
        self._model_chance += (fmean(chances) - self._model_chance) / MODEL_MEMORY
        draft = Draft(len(tokens), tuple(guess.token for guess in guesses), kinds)
        return draft, self._worth(chances, self._cost, held)

    def _worth(self, chances: Sequence[float], cost: RoundCost, held: float | None) -> Choice:
        choice = best_length(chances, cost, least_gain=1.0 if self._sends else GAIN_TO_BEGIN)
        return choice if held is None else Choice(length_ahead(chances, held, cost, choice.rate), choice.rate)

    def _chosen(self, draft: Draft, held: float | None) -> Choice:
        chances = self._acceptance.chances(draft.kinds)
        choice = self._worth(chances, self._cost, held)
        if choice.length or held is not None:
            return choice
        exploring = exploring_length(chances, self._idle_rounds, self._explored)
        self._explored += exploring > 0
        return Choice(exploring, choice.rate)
