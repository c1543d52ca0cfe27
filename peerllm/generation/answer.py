"""What an answer consists of, as it leaves the token loop and reaches the local API."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Doing:
    """What is going on with an answer, for its reader; changes while the answer is made."""

    waiting: str = ""
    """Why nothing comes just now; empty while all goes its way."""
    peers: tuple[str, ...] = ()
    """Names of the other machines that see the prompt's hidden states, first to last."""
    route: tuple[str, ...] = ()
    """The hops in use, each as "start:end@peer"."""
    predicted_ms: float = 0.0
    """What a decoded token should take on that route; 0 before there is one."""
    seen_by: tuple[str, ...] = ()
    """Ids of all other machines that have seen hidden states, also on routes that are no more."""

    @property
    def note(self) -> str:
        """In one line; empty if there is nothing to say."""
        if self.waiting:
            return self.waiting
        return f"hidden states of this prompt go to {', '.join(self.peers)}" if self.peers else ""


@dataclass(frozen=True)
class Content:
    """Text of the answer proper."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Text that the model writes to itself before it answers."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """The model calls a tool: the `index`-th call of this answer, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A further piece of the JSON that the call passes."""

    index: int
    text: str


Part = Content | Reasoning | CallBegins | CallArguments


@dataclass(frozen=True)
class ScoredToken:
    """A token, the bytes it stands for (perhaps half a character), and the natural logarithm of its probability."""

    token: int
    spelling: bytes
    logprob: float
    is_control: bool = False
    """Its spelling is a name: it adds nothing to a text."""


@dataclass(frozen=True)
class PromptScored:
    """First item of an answer that was asked to score its prompt: one entry per prompt token.

    The first token has nothing before it, hence neither `scores` (None) nor `alternatives` (empty).
    """

    tokens: tuple[int, ...]
    spellings: tuple[bytes, ...]
    scores: tuple[float | None, ...]
    alternatives: tuple[tuple[ScoredToken, ...], ...]


@dataclass(frozen=True)
class Delta:
    """One more token; `text` is what can be shown by now, possibly empty (half a character, half a stop string).

    `parts` is what that text is in the answer; a marker of the chat template is in none of them.
    """

    text: str
    token: int
    parts: tuple[Part, ...] = ()
    score: ScoredToken | None = None
    alternatives: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last item of an answer; `route` names each hop as "start:end@peer", first to last.

    `text` and `parts` are what had been withheld while it could have become a stop string or a marker.
    """

    reason: str  # "stop", "length" or "tool_calls", as in OpenAI's API
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    tokens_per_s: float
    route: tuple[str, ...] = ()
    recoveries: int = 0
    text: str = ""
    parts: tuple[Part, ...] = ()
    cached_tokens: int = 0
    """Of the prompt, whose keys and values were still there from an earlier answer."""
    dropped_tokens: int = 0
    """Of the prompt, to make it fit, as the request allowed."""
    rounds: int = 0
    """Through the route, behind the prompt's."""
    drafted_tokens: int = 0
    """Guessed ahead and sent along in these rounds."""
    accepted_tokens: int = 0
    """Of these, in the answer."""
    accepted_prediction_tokens: int = 0
    """Of these, guessed by the text that the request predicted."""
    rejected_prediction_tokens: int = 0
    """Guessed by that text and sent along in vain."""
    score: ScoredToken | None = None
    """Of the token that ended the answer, if one did and log probabilities were asked for."""
    alternatives: tuple[ScoredToken, ...] = ()


AnswerEvent = PromptScored | Delta | Finished
