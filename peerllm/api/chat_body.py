"""The body of ``POST /v1/chat/completions``: what is supported, and by its absence what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from peerllm.api.chat_messages import Content as MessageContent
from peerllm.api.chat_messages import Turn, text_of
from peerllm.api.request_fields import AnswerFields, choice_id
from peerllm.api.response_format import ResponseFormat
from peerllm.api.strict_body import StrictBody, fault
from peerllm.api.tool_body import ToolFields, tool_grammar, tool_prompt
from peerllm.generation.answer import Doing
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.sampler import MAX_LOGPROBS

MAX_MESSAGES = 4096


class Prediction(StrictBody):
    """What much of the answer may be like, such as the file that is to be changed."""

    type: Literal["content"]
    content: MessageContent

    @property
    def text(self) -> str:
        return text_of(self.content)


Options = Annotated[
    dict[str, Any], Field(json_schema_extra={"additionalProperties": {"type": ["string", "number", "boolean", "null"]}})
]


class ChatBody(AnswerFields, ToolFields):
    messages: list[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="Superseded by max_completion_tokens.")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="Only with `logprobs`.")
    modalities: list[Literal["text"]] | None = Field(None, min_length=1, max_length=1)
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = Field(None, description="Changes no token: what is as predicted comes sooner.")
    chat_template_kwargs: Options | None = Field(
        None, description="Variables of the model's chat template, such as enable_thinking. Not OpenAI's."
    )

    def requests(self, request_id: str) -> tuple[AnswerRequest, ...]:
        """What the node is asked for, one request for each choice.

        Raises:
            UsageError: messages that do not go together, or a schema that cannot be followed.
        """
        response_format = self.response_format.model_dump(by_alias=True) if self.response_format else None
        first = AnswerRequest(
            model=self.model,
            prompt=tool_prompt(self, [turn.message() for turn in self.messages], self.chat_template_kwargs or {}),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=self.stops,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=tool_grammar(self, response_format),
            truncate=self.truncation == "oldest",
            prediction=self.prediction.text if self.prediction else "",
        )
        return tuple(
            replace(first, sampling=self.sampling(choice), id=choice_id(request_id, choice), doing=Doing())
            for choice in range(self.n)
        )

    @model_validator(mode="after")
    def _check_fields(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise fault("top_logprobs", "needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise fault("max_tokens", "says something else than max_completion_tokens; give one of them")
        return self
