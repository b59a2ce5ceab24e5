"""Chat messages: what vLLM accepts as one, and the plain text of each that a chat template sees.

The types repeat the `openai` package's message parameters, which vLLM validates against, because a malformed message is
answered with what every branch of that union has to say (vLLM 0.33 renderers/chat_utils/types.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Required

from pydantic import BaseModel, Field, WrapValidator
from pydantic.functional_validators import ModelWrapValidatorHandler
from typing_extensions import TypedDict

from ghostfleet_simulator.api import media
from ghostfleet_simulator.api.errors import bad_request, validation_error


class ChatCompletionContentPartTextParam(TypedDict, total=False):
    """A piece of text."""

    text: Required[str]
    type: Required[Literal["text"]]


class ChatCompletionContentPartRefusalParam(TypedDict, total=False):
    """A refusal of the model."""

    refusal: Required[str]
    type: Required[Literal["refusal"]]


class Audio(TypedDict, total=False):
    """An earlier audio answer."""

    id: Required[str]


class FunctionCall(TypedDict, total=False):
    """A function to call, in the form before tools."""

    arguments: Required[str]
    name: Required[str]


class ChatCompletionDeveloperMessageParam(TypedDict, total=False):
    """Instructions of the developer."""

    content: Required[str | Iterable[ChatCompletionContentPartTextParam]]
    role: Required[Literal["developer"]]
    name: str


class ChatCompletionSystemMessageParam(TypedDict, total=False):
    """Instructions of the system."""

    content: Required[str | Iterable[ChatCompletionContentPartTextParam]]
    role: Required[Literal["system"]]
    name: str


class ChatCompletionUserMessageParam(TypedDict, total=False):
    """What the user says; its parts are looked at when the text is made of them."""

    content: Required[str | Iterable[Any]]
    role: Required[Literal["user"]]
    name: str


class ChatCompletionAssistantMessageParam(TypedDict, total=False):
    """What the model said before."""

    role: Required[Literal["assistant"]]
    audio: Audio | None
    content: str | Iterable[ChatCompletionContentPartTextParam | ChatCompletionContentPartRefusalParam] | None
    function_call: FunctionCall | None
    name: str
    refusal: str | None
    tool_calls: Iterable[Any]


class ChatCompletionToolMessageParam(TypedDict, total=False):
    """What a tool answered."""

    content: Required[str | Iterable[ChatCompletionContentPartTextParam]]
    role: Required[Literal["tool"]]
    tool_call_id: Required[str]


class ChatCompletionFunctionMessageParam(TypedDict, total=False):
    """What a function answered, in the form before tools."""

    content: Required[str | None]
    name: Required[str]
    role: Required[Literal["function"]]


class CustomChatCompletionMessageParam(TypedDict, total=False):
    """A message of any role, vLLM's own addition."""

    role: Required[str]
    content: str | list[Any]
    name: str
    tool_call_id: str | None
    tool_calls: list[Any] | None
    reasoning: str | dict[str, Any] | None
    tools: list[Any] | None
    task: str | None


class Role(StrEnum):
    """Role of the author of a Harmony message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    DEVELOPER = "developer"
    TOOL = "tool"


class Author(BaseModel):
    """Author of a Harmony message."""

    role: Role
    name: str | None = None


class Message(BaseModel):
    """A Harmony message; vLLM accepts it and so must say what is missing from one."""

    author: Author
    content: list[dict[str, Any]] = Field(default_factory=list)
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


_AnyMessage = (
    ChatCompletionDeveloperMessageParam
    | ChatCompletionSystemMessageParam
    | ChatCompletionUserMessageParam
    | ChatCompletionAssistantMessageParam
    | ChatCompletionToolMessageParam
    | ChatCompletionFunctionMessageParam
    | CustomChatCompletionMessageParam
    | Message
)


def _plain(message: object) -> bool:
    if type(message) is not dict or len(message) != 2:
        return False
    return type(message.get("role")) is str and type(message.get("content")) is str


def _validated(value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
    # Nearly every request has nothing but role and text, and the union is slow because it tries eight branches.
    # The validated copies are dropped: their lists have become one-shot iterators.
    if type(value) is not list or not all(map(_plain, value)):
        handler(value)
    return value


Messages = Annotated[list[_AnyMessage], WrapValidator(_validated)]
"""A conversation as the client wrote it, checked as vLLM checks it; the dictionaries are left as they came."""

# Where each type of part keeps its text (vLLM 0.33 renderers/chat_utils/chat_message.py, MM_PARSER_MAP).
_TEXT_KEYS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}
_OTHERS: Final = media.TYPES | {"prompt_embeds"}


def _part_text(part: Any, model: str, takes_media: bool) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise bad_request(f"a content part is a string or an object, not {type(part).__name__}")
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in part if key in _OTHERS or key == "tool_reference"), None)
        if kind is None:
            raise validation_error("Missing 'type' field in multimodal part.", "type")
    if not isinstance(kind, str):
        raise validation_error("Invalid 'type' field in multimodal part.", "type")
    if kind == "prompt_embeds":
        raise validation_error("You must set `--enable-prompt-embeds` to input `prompt_embeds`", "prompt_embeds")
    if kind in media.TYPES:
        if not takes_media:
            raise bad_request(f"{model} is not a multimodal model")
        return media.marker(part)
    if kind not in _TEXT_KEYS:
        supported = ", ".join(sorted(_OTHERS | _TEXT_KEYS.keys()))
        raise validation_error(
            f"Unsupported chat content part type: {kind!r}. Supported types: {supported}.", "type", kind
        )
    text = part.get(_TEXT_KEYS[kind])
    if text is not None and not isinstance(text, str):
        raise bad_request(f"the {_TEXT_KEYS[kind]} of a content part is a string, not {type(text).__name__}")
    return text


def text_of(content: str | Sequence[Any] | None, model: str, *, takes_media: bool = False) -> str:
    """The text of a message: its parts one line each; `model` is the name by which a refusal of media calls it.

    Raises `ApiError` for a part that the model cannot take.
    """
    if isinstance(content, str):
        return content
    return "\n".join(text for part in content or () if (text := _part_text(part, model, takes_media)) is not None)


def conversation(messages: Sequence[Any], model: str, *, takes_media: bool = False) -> list[dict[str, Any]]:
    """The messages with their contents as plain text, ready for a chat template. Raises `ApiError`."""
    if any("role" not in message for message in messages):
        # A Harmony message is accepted, and then not understood by a model that does not speak Harmony.
        raise bad_request("'Message' object is not subscriptable")
    return [
        {**message, "content": text_of(message.get("content"), model, takes_media=takes_media)} for message in messages
    ]
