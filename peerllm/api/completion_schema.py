"""What completions look like, for ``/openapi.json``; `Completion` and its choices make them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "tool_calls"]
Logprob = Annotated[float, Field(ge=-9999, le=0.001)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(_Told):
    cached_tokens: int = Field(description="Read from a cache instead of computed.")


class CompletionTokensDetails(_Told):
    accepted_prediction_tokens: int = Field(description="Of the answer, guessed by `prediction`.")
    rejected_prediction_tokens: int = Field(description="Guessed by `prediction` and computed in vain.")


class Usage(_Told):
    prompt_tokens: int = Field(description="A prompt with several answers counts once.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class SwarmAccount(_Told):
    """What only a swarm can tell."""

    route: list[str] = Field(description="Each hop as start:end@peer.")
    ttft_s: float
    tokens_per_s: float
    recoveries: int = Field(description="Hops that were lost and replaced.")
    dropped_tokens: int = Field(description="Of the prompt, with `truncation`: oldest.")
    rounds: int = Field(description="Through the route, behind the prompt's.")
    drafted_tokens: int = Field(description="Guessed ahead and sent along in these rounds.")
    accepted_tokens: int = Field(description="Of these, in the answer.")
    tokens: list[int] | None = Field(None, description="With X-Peerllm-Token-Ids: 1.")


class LikelyToken(_Told):
    token: str = Field(description="Half a character as its bytes, such as \\xe2\\x80.")
    bytes: list[int]
    logprob: Logprob


class ChosenToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(_Told):
    content: list[ChosenToken] = Field(description="Every token of the answer, of reasoning and calls as well.")
    refusal: None


class FunctionCall(_Told):
    name: str
    arguments: str


class CalledTool(_Told):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(_Told):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoiceObject(_Told):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletionObject(_Told):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceObject]
    service_tier: Literal["default"] | None = None
    usage: Usage
    peerllm: SwarmAccount


class FunctionDelta(_Told):
    name: str | None = None
    arguments: str


class CallDelta(_Told):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class MessageDelta(_Told):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChatChunkChoice(_Told):
    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class DroppedTokens(_Told):
    dropped_tokens: int


class ChatCompletionChunk(_Told):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    service_tier: Literal["default"] | None = None
    usage: Usage | None = None
    peerllm: SwarmAccount | DroppedTokens | None = None


class TextLogprobs(_Told):
    """Four lists with an entry for each token."""

    tokens: list[str] = Field(description="Half a character as bytes:\\xe2\\x80.")
    token_logprobs: list[Logprob | None] = Field(description="The first token of an echoed prompt has none.")
    top_logprobs: list[dict[str, Logprob] | None] = Field(description="The token itself among them.")
    text_offset: list[int] = Field(description="The character of `text` at which it begins.")


class TextChoiceObject(_Told):
    text: str
    index: int = Field(description="The prompt's place times n, plus the answer's.")
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(description="Null in the chunks of a stream but the last.")


class TextCompletionObject(_Told):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoiceObject]
    service_tier: Literal["default"] | None = None
    usage: Usage | None = None
    peerllm: SwarmAccount | DroppedTokens | None = None
