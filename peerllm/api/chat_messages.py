"""The messages of a chat, in the shapes that OpenAI's API gives them; of contents only text is taken."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from peerllm.api.strict_body import AS_LIST, AS_TEXT, TEXT_OR_LIST, StrictBody, fault

FROM_USER, FROM_ASSISTANT, FROM_TOOL = "from the user", "from the assistant", "from a tool"

MAX_CALLS = 128


class TextPart(StrictBody):
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, data: Any) -> Any:
        kind = cast("dict[str, object]", data).get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise fault("type", f"{kind[:64]!a} parts are not supported, only text is")
        return data


Content = Annotated[
    Annotated[str, Tag(AS_TEXT)] | Annotated[list[TextPart], Field(min_length=1), Tag(AS_LIST)], TEXT_OR_LIST
]


class CalledFunction(StrictBody):
    name: str = Field(min_length=1, max_length=64)
    arguments: str = Field(description="JSON, as the model wrote it.")


class ToolCall(StrictBody):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: CalledFunction


class AskingTurn(StrictBody):
    """What the model is told or asked."""

    role: Literal["system", "developer", "user"]
    content: Content
    name: str | None = None

    def message(self) -> dict[str, Any]:
        return {"role": self.role, "content": text_of(self.content)} | _given(name=self.name)


class AssistantTurn(StrictBody):
    """What it answered; without content only where it called tools."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
                {"required": ["tool_calls"], "properties": {"tool_calls": {"not": {"type": "null"}}}},
            ]
        }
    )

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, min_length=1, max_length=MAX_CALLS)
    reasoning_content: str | None = Field(None, description="For templates that show it again. Not OpenAI's.")

    def message(self) -> dict[str, Any]:
        calls = [call.model_dump() for call in self.tool_calls] if self.tool_calls else None
        content = None if self.content is None else text_of(self.content)
        more = _given(name=self.name, tool_calls=calls, reasoning_content=self.reasoning_content)
        return {"role": self.role, "content": content} | more

    @model_validator(mode="after")
    def _check_content(self) -> AssistantTurn:
        if self.content is None and self.tool_calls is None:
            raise fault("content", "only a message that calls tools may be without", kind="missing")
        return self


class ToolTurn(StrictBody):
    """What a tool gave back."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(min_length=1, max_length=256)
    name: str | None = None

    def message(self) -> dict[str, Any]:
        own = {"role": self.role, "content": text_of(self.content), "tool_call_id": self.tool_call_id}
        return own | _given(name=self.name)


def _speaker(message: object) -> str | None:
    """Which kind of turn a message is; None for a role that there is not."""
    role = cast("dict[str, object]", message).get("role") if isinstance(message, dict) else None
    match role:
        case "system" | "developer" | "user":
            return FROM_USER
        case "assistant":
            return FROM_ASSISTANT
        case "tool":
            return FROM_TOOL
        case _:
            return None


Turn = Annotated[
    Annotated[AskingTurn, Tag(FROM_USER)]
    | Annotated[AssistantTurn, Tag(FROM_ASSISTANT)]
    | Annotated[ToolTurn, Tag(FROM_TOOL)],
    Discriminator(
        _speaker,
        custom_error_type="unknown_role",
        custom_error_message="must be system, developer, user, assistant or tool",
        custom_error_context={"field": "role"},
    ),
]


def text_of(content: str | list[TextPart]) -> str:
    """The content of a message as one text."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _given(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
