"""The bodies that clients send: their fields, defaults and limits, as vLLM 0.33's request models declare them.

Unknown fields are accepted.
Source: vLLM 0.33 entrypoints/openai/{chat_completion,completion}/protocol.py and serve/tokenize/protocol.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from ghostfleet_simulator.api import checks
from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import validation_error
from ghostfleet_simulator.api.messages import Messages

MAX_STOP_STRINGS: Final = 4
"""vLLM's VLLM_MAX_STOP_STRINGS."""

# A default that is a list is copied deeply for every request.
_NO_ITEMS: Final[Any] = Field(default_factory=list, json_schema_extra={"default": []})
_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_Stop = str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None
_TopLogprobs = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
_ThinkingBudget = Annotated[int | None, BeforeValidator(checks.thinking_token_budget)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class StreamOptions(_Body):
    """What a stream tells beside the text."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class JsonSchemaResponseFormat(_Body):
    """A JSON schema that the answer follows."""

    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    """Shape of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaResponseFormat | None = None


class StructuralTagResponseFormat(_Body):
    """Shape of parts of the answer's text."""

    type: Literal["structural_tag"]
    format: Any


class LegacyStructuralTag(_Body):
    """One tag of the older form."""

    begin: str
    structural_tag_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    end: str


class LegacyStructuralTagResponseFormat(_Body):
    """Shape of parts of the answer's text, older form."""

    type: Literal["structural_tag"]
    structures: list[LegacyStructuralTag]
    triggers: list[str]


@dataclass
class StructuredOutputsParams:
    """A constraint on the answer's text, exactly one."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        """Raise `ApiError` unless there is exactly one constraint."""
        given = [self.json, self.regex, self.choice, self.grammar, self.json_object, self.structural_tag]
        count = sum(constraint is not None for constraint in given)
        if count != 1:
            said, what = ("can only", "multiple") if count else ("must", "none")
            # vLLM shows all of its object, two fields of its own at the end included.
            shown = {**self.__dict__, "_backend": None, "_backend_was_auto": False}
            raise validation_error(
                f"You {said} use one kind of structured outputs constraint but {what} are specified: {shown}"
            )


@dataclass
class RepetitionDetectionParams:
    """When an answer that repeats itself is cut off."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        """Raise `ApiError` for sizes that contradict each other."""
        if self.max_pattern_size < 0 or self.min_pattern_size < 0 or self.min_pattern_size > self.max_pattern_size:
            raise validation_error(
                "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= max_pattern_size. "
                "Set both to 0 to disable repetitive pattern detection."
            )
        if self.max_pattern_size > 0 and self.min_count < 2:
            raise validation_error(
                "min_count must be >= 2 to detect repetitive patterns in engine output. If you do not wish to detect "
                "repetitive patterns, set max_pattern_size to 0."
            )


class FunctionDefinition(_Body):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class ChatCompletionToolsParam(_Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionDefinition
    defer_loading: bool | None = None


class ChatCompletionNamedFunction(_Body):
    """The function that must be called."""

    name: str


class ChatCompletionNamedToolChoiceParam(_Body):
    """The tool that must be called."""

    function: ChatCompletionNamedFunction
    type: Literal["function"] = "function"


class GenerationRequest(_Body):
    """What chat and completion requests have in common."""

    model: str | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    response_format: ResponseFormat | StructuralTagResponseFormat | LegacyStructuralTagResponseFormat | None = None
    seed: _Int64 | None = None
    stop: _Stop = _NO_ITEMS
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None

    use_beam_search: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    watermarking: bool | None = None
    length_penalty: float = 1.0
    stop_token_ids: list[int] | None = _NO_ITEMS
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**63 - 1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = _NO_ITEMS
    thinking_token_budget: _ThinkingBudget = None

    structured_outputs: StructuredOutputsParams | None = None
    priority: _Int64 = 0
    request_id: str = ""
    session_id: str | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    return_weight_versions: bool = False
    routed_experts_prompt_start: Annotated[int, Field(ge=0)] = 0
    return_token_offsets: bool | None = False
    mm_payload: Literal["tensors", "none"] = "tensors"
    return_mm_kwargs: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, str | int | float | list[str | int | float]] | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    stream_interval: Annotated[int, Field(ge=1)] | None = None
    # Beyond vLLM 0.33: llm-d's, and SGLang's, whose server gets the same request on both sides.
    cache_hit_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None


class ChatCompletionRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Messages
    logprobs: bool | None = False
    top_logprobs: _TopLogprobs = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    tools: list[ChatCompletionToolsParam] | None = None
    tool_choice: (
        Literal["none"] | Literal["auto"] | Literal["required"] | ChatCompletionNamedToolChoiceParam | None  # noqa: PYI030 - each word is a branch of vLLM's union, with an error of its own
    ) = "none"
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool = True
    parallel_tool_calls: bool | None = True
    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    return_prompt_text: bool | None = None


_TokenId = Annotated[int, Field(ge=0)]


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: list[_TokenId] | list[list[_TokenId]] | str | list[str] | None = None
    echo: bool | None = False
    logprobs: int | None = None
    max_tokens: int | None = 16
    n: int = 1
    suffix: str | None = None
    prompt_embeds: bytes | list[bytes] | None = None
    add_special_tokens: bool = True


class TokenizeCompletionRequest(_Body):
    """`POST /tokenize` with a text."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatRequest(_Body):
    """`POST /tokenize` with a conversation."""

    model: str | None = None
    messages: Messages
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    tools: list[ChatCompletionToolsParam] | None = None


TokenizeRequest = TokenizeCompletionRequest | TokenizeChatRequest


class DetokenizeRequest(_Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=2**63 - 1)]]


CHAT: Final[Parser[ChatCompletionRequest]] = Parser(
    ChatCompletionRequest,
    checks.chat,
    "messages model frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n "
    "presence_penalty response_format seed stop stream stream_options temperature top_p tools tool_choice "
    "reasoning_effort thinking_token_budget include_reasoning parallel_tool_calls user use_beam_search top_k "
    "min_p repetition_penalty watermarking length_penalty stop_token_ids include_stop_str_in_output ignore_eos "
    "min_tokens skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens truncation_side "
    "prompt_logprobs logprob_token_ids allowed_token_ids bad_words echo add_generation_prompt "
    "continue_final_message add_special_tokens documents chat_template chat_template_kwargs media_io_kwargs "
    "mm_processor_kwargs structured_outputs priority request_id session_id return_tokens_as_token_ids "
    "return_token_ids return_weight_versions routed_experts_prompt_start return_token_offsets return_prompt_text "
    "mm_payload return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params vllm_xargs repetition_detection "
    "stream_interval",
)
COMPLETION: Final[Parser[CompletionRequest]] = Parser(
    CompletionRequest,
    checks.completion,
    "model prompt echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream "
    "stream_options suffix temperature top_p user use_beam_search top_k min_p repetition_penalty watermarking "
    "length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens "
    "spaces_between_special_tokens truncate_prompt_tokens truncation_side allowed_token_ids prompt_logprobs "
    "logprob_token_ids bad_words prompt_embeds add_special_tokens response_format structured_outputs priority "
    "request_id session_id return_tokens_as_token_ids return_token_ids return_weight_versions "
    "routed_experts_prompt_start return_token_offsets mm_payload return_mm_kwargs cache_salt kv_transfer_params "
    "ec_transfer_params vllm_xargs repetition_detection thinking_token_budget stream_interval",
)
TOKENIZE: Final[Parser[TokenizeRequest]] = Parser(TokenizeRequest, checks.tokenize)
DETOKENIZE: Final[Parser[DetokenizeRequest]] = Parser(DetokenizeRequest)
