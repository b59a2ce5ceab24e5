"""The bodies and chunks that are answered, as vLLM 0.33's response models declare them, in its order of fields.

They are what the OpenAPI document shows and what the pre-encoded bytes of `api.responses` are tested against; no
request goes through them. Source: vLLM 0.33 entrypoints/openai/*/protocol.py and serve/engine/protocol.py.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

_Tier = Literal["auto", "default", "flex", "scale", "priority"]


class ErrorInfo(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorInfo


ERRORS: Final[dict[int | str, dict[str, Any]]] = {status: {"model": ErrorResponse} for status in (400, 404, 500, 501)}
"""The answers that any route with a body may give, for the OpenAPI document."""


class PromptTokenUsageInfo(BaseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int | None = None
    created_cache_tokens: int | None = None
    multimodal_tokens: dict[str, int] | None = None


class CompletionTokenUsageInfo(BaseModel):
    """What the answer's tokens were used for."""

    reasoning_tokens: int = 0


class UsageInfo(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptTokenUsageInfo | None = None
    completion_tokens_details: CompletionTokenUsageInfo | None = None


class ChatMessage(BaseModel):
    """A whole answer of a chat; vLLM leaves `tool_calls` out where there are none."""

    role: str
    content: str | None = None
    refusal: str | None = None
    annotations: Any | None = None
    audio: Any | None = None
    function_call: Any | None = None
    reasoning: str | None = None


class ChatCompletionResponseChoice(BaseModel):
    """One answer of a chat."""

    index: int
    message: ChatMessage
    logprobs: Any | None = None
    finish_reason: str | None = "stop"
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    routed_experts: str | None = None
    weight_versions: list[Any] | None = None


class ChatCompletionResponse(BaseModel):
    """The body of a chat that is not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatCompletionResponseChoice]
    service_tier: _Tier | None = None
    system_fingerprint: str | None = None
    usage: UsageInfo
    prompt_logprobs: list[Any] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None


class DeltaMessage(BaseModel):
    """What a chunk adds to the answer of a chat."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None


class ChatCompletionResponseStreamChoice(BaseModel):
    """What a chunk tells of one answer of a chat."""

    index: int
    delta: DeltaMessage
    logprobs: Any | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    weight_versions: list[Any] | None = None


class ChatCompletionStreamResponse(BaseModel):
    """A chunk of a chat; fields that were never set are left out."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatCompletionResponseStreamChoice]
    usage: UsageInfo | None = None
    system_fingerprint: str | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None
    metrics: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


class CompletionResponseChoice(BaseModel):
    """One answer of a completion."""

    index: int
    text: str
    logprobs: Any | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None
    prompt_token_ids: list[int] | None = None
    routed_experts: str | None = None
    weight_versions: list[Any] | None = None


class CompletionResponse(BaseModel):
    """The body of a completion that is not streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionResponseChoice]
    service_tier: _Tier | None = None
    system_fingerprint: str | None = None
    usage: UsageInfo
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None


class CompletionResponseStreamChoice(BaseModel):
    """What a chunk tells of one answer of a completion."""

    index: int
    text: str
    logprobs: Any | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    weight_versions: list[Any] | None = None


class CompletionStreamResponse(BaseModel):
    """A chunk of a completion; fields that were never set are left out."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionResponseStreamChoice]
    usage: UsageInfo | None = None
    system_fingerprint: str | None = None
    metrics: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


class ModelPermission(BaseModel):
    """What may be done with a model; always the same."""

    id: str
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ModelCard(BaseModel):
    """One name under which a model is served."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "vllm"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    permission: list[ModelPermission]


class ModelList(BaseModel):
    """`GET /v1/models`."""

    object: str = "list"
    data: list[ModelCard]


class TokenizeResponse(BaseModel):
    """`POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeResponse(BaseModel):
    """`POST /detokenize`."""

    prompt: str
