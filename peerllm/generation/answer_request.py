"""What a program of this machine asks for: a prompt, how to go on from it, and by which peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peerllm.generation.answer import Doing
from peerllm.generation.grammar import Grammar
from peerllm.generation.route_terms import RouteTerms
from peerllm.generation.sampler import SamplingParams


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation to be continued, in the shape of OpenAI's chat messages; the model's chat template renders it.

    `tools` are the functions that the model may call, each ``{"name": ..., "description": ..., "parameters": ...}``;
    `options` are further variables of the template, such as ``enable_thinking``.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TextPrompt:
    """A text to be continued as it stands."""

    text: str


@dataclass(frozen=True)
class TokenPrompt:
    """The same, tokenized by whoever asks."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True)
class AnswerRequest:
    """One answer that is asked for; the node checks what depends on the model."""

    model: str
    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """None: as far as the context reaches, but an end is set (`preparing.DEFAULT_MAX_TOKENS`)."""
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """How many alternatives are told beside each token's own log probability; None: no log probabilities."""
    score_prompt: bool = False
    """Begin with `PromptScored`; then `max_tokens` may be 0."""
    grammar: Grammar | None = None
    """What the answer has to follow."""
    truncate: bool = False
    """Drop the oldest messages or tokens of a prompt that is too long, instead of refusing it."""
    prediction: str = ""
    """What the answer may be like; where it is, it comes sooner."""
    terms: RouteTerms = field(default_factory=RouteTerms)
    id: str = ""
    """By which the request's account is found afterwards: that of the response."""
    doing: Doing = field(default_factory=Doing, compare=False)
    """Kept up to date by the node while it answers."""
