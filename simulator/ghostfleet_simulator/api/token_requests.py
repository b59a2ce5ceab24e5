"""`POST /inference/v1/generate`: tokens in, tokens out; what is sent and what it asks for.

Source: vLLM 0.33 entrypoints/scale_out/token_in_token_out/{protocol,serving}.py, sampling_params.py (`SamplingParams`)
and v1/serial_utils.py (`PydanticMsgspecMixin`, which gives the errors of the sampling parameters their form).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_type_hints

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StrictInt, field_validator, model_validator
from pydantic_core import CoreSchema, core_schema

from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import ApiError, bad_request, validation_error
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.preflight import asked_rank, elsewhere, sendable
from ghostfleet_simulator.api.reporting import reporting
from ghostfleet_simulator.api.requests import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionToolsParam,
    CompletionRequest,
    RepetitionDetectionParams,
    StreamOptions,
    StructuredOutputsParams,
)
from ghostfleet_simulator.api.sampling import is_greedy, late_problem, verified
from ghostfleet_simulator.runtime.work import Details, Kind, Prompt, Work

_UNLIMITED: Final = 2**62


class SamplingParams:
    """How answers are made; `given` are the fields that the client wrote, the others have their defaults."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: list[list[StrictInt]] | None = None
    prompt_logprob_start: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: Literal[0, 1, 2] = 0
    stream_interval: int | None = None
    skip_clone: bool = False
    output_text_buffer_length: int = 0
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None
    bad_words: list[str] | None = None
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: list[int] | None = None

    def __init__(self, **given: Any) -> None:
        """Raises `ApiError` for values that are out of range or contradict each other."""
        self.given = frozenset(given)
        for name, value in given.items():
            setattr(self, name, value)
        if self.stream_interval is not None and self.stream_interval < 1:
            message = f"stream_interval must be at least 1, got {self.stream_interval}."
            raise validation_error(message, "stream_interval", self.stream_interval)
        verified(self.as_completion(()), _UNLIMITED if self.max_tokens is None else self.max_tokens, self.max_tokens)
        if self.stop and not self.detokenize:
            raise validation_error(
                "stop strings are only supported when detokenize is True. Set detokenize=True to use stop."
            )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(handler(hint), required=False)
            for name, hint in get_type_hints(cls, include_extras=True).items()
        }

        def _validate_msgspec(value: dict[str, Any]) -> SamplingParams:
            return cls(**value)

        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(cls),
                core_schema.no_info_after_validator_function(_validate_msgspec, core_schema.typed_dict_schema(fields)),
            ]
        )

    def as_completion(self, token_ids: tuple[int, ...] | list[int]) -> CompletionRequest:
        """A completion request that asks for the same."""
        shared = CompletionRequest.model_fields.keys() & get_type_hints(SamplingParams).keys()
        values = {name: getattr(self, name) for name in shared}
        values["bad_words"] = self.bad_words or []
        values["logit_bias"] = {str(key): value for key, value in (self.logit_bias or {}).items()} or None
        return CompletionRequest.model_construct(**values, prompt=list(token_ids))


class ParseContext(BaseModel):
    """What `/render` tells of the chat that a request came from."""

    model_config = ConfigDict(extra="allow")

    tools: list[ChatCompletionToolsParam] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChatCompletionNamedToolChoiceParam | None = "none"
    parallel_tool_calls: bool | None = True
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    history_tool_call_cnt: int = Field(default=0, ge=0)


class PlaceholderRangeInfo(BaseModel):
    """Where an image or the like stands in the tokens."""

    offset: int = Field(ge=0)
    length: int = Field(gt=0)


class MultiModalFeatures(BaseModel):
    """What rendering found beside text, by modality."""

    mm_hashes: dict[str, list[str]]
    mm_placeholders: dict[str, list[PlaceholderRangeInfo]]
    kwargs_data: dict[str, list[str | None]] | None = None
    mm_metadata: dict[str, list[str | None]] | None = None

    @property
    def items(self) -> int:
        """How many images and the like there are."""
        return sum(map(len, self.mm_hashes.values()))

    @property
    def hashes(self) -> tuple[str, ...]:
        """Those of all of them, each once."""
        return tuple(dict.fromkeys(one for hashes in self.mm_hashes.values() for one in hashes))


class GenerateRequest(BaseModel):
    """The body."""

    request_id: str | None = None
    token_ids: list[int] = Field(min_length=1)
    token_offsets: list[tuple[int, int]] | None = None
    features: MultiModalFeatures | None = None
    content_parts: list[dict[str, Any]] | None = None
    sampling_params: SamplingParams
    model: str | None = None
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    output_mode: Literal["tokens", "text", "derender"] = "tokens"
    parse_context: ParseContext | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=1024)
    priority: int = Field(default=0, ge=-(2**63), le=2**63 - 1)
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    cache_hit_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None

    @field_validator("token_ids")
    @classmethod
    def _no_negative(cls, token_ids: list[int]) -> list[int]:
        if any(token_id < 0 for token_id in token_ids):
            raise ValueError("token_ids must not contain negative values")
        return token_ids

    @model_validator(mode="after")
    def _detokenizes(self) -> GenerateRequest:
        if self.content_parts and self.features:
            raise ValueError("content_parts and features are mutually exclusive")
        if self.output_mode != "tokens" and not self.sampling_params.detokenize:
            raise ValueError(f"output_mode={self.output_mode!r} requires sampling_params.detokenize to be true")
        return self


GENERATE: Final[Parser[GenerateRequest]] = Parser(GenerateRequest)


def work_of(request: GenerateRequest, facts: Facts, headers: Mapping[str, str]) -> Work:
    """What the request asks for; `headers` have lower-case names. Raises `ApiError`."""
    params, token_ids = request.sampling_params, request.token_ids
    lora = facts.adapters.get(request.model)
    if params.n > facts.max_num_seqs:
        raise bad_request(
            f"sampling_params.n must be at most the server's max_num_seqs ({facts.max_num_seqs}), got {params.n}."
        )
    if request.stream and params.prompt_logprob_token_ids is not None:
        raise bad_request("prompt_logprob_token_ids are not available when stream=true.")
    if request.output_mode == "derender" and request.stream:
        raise bad_request("output_mode='derender' does not support stream=true.")
    features = request.features if request.features is not None and request.features.items else None
    if request.content_parts or (features is not None and not facts.takes_media):
        raise bad_request(f"{facts.aliases[0]} is not a multimodal model")
    given = headers.get("x-request-id")
    base = (
        given if given is not None else facts.new_id() if request.request_id is None else sendable(request.request_id)
    )
    completion, room = params.as_completion(token_ids), facts.max_model_len - len(token_ids)
    rejection = _rejection(completion, token_ids, facts, headers)
    asked = params.max_tokens if "max_tokens" in params.given else None
    most = room if asked is None else min(asked, room)
    options = request.stream_options
    # vLLM had cut nothing when it checked these, and the end of the context goes before `min_tokens`. Where the prompt
    # leaves no room there is a rejection, and nothing is made of this.
    sampling = verified(completion, max(most, params.min_tokens, 1), asked)
    prompt = Prompt(
        id=f"generate-tokens-{base}",
        token_ids=token_ids,
        sampling=replace(sampling, max_tokens=max(most, 1), min_tokens=min(params.min_tokens, max(most, 1))),
    )
    return Work(
        kind=Kind.COMPLETION,
        id=prompt.id,
        model=lora.name if lora else facts.aliases[0],
        prompts=(prompt,),
        stream=bool(request.stream),
        include_usage=options is not None and bool(options.include_usage),
        continuous_usage=options is not None and bool(options.include_usage and options.continuous_usage_stats),
        details=Details(
            logprobs=params.logprobs,
            logprob_token_ids=tuple(params.logprob_token_ids or ()) or None,
            prompt_logprobs=params.prompt_logprobs,
            greedy=is_greedy(completion),
            as_token_ids=facts.settings.return_tokens_as_token_ids,
            token_ids=bool(request.return_token_ids),
            interval=max(params.stream_interval or 1, facts.settings.stream_interval),
        ),
        priority=request.priority,
        lora=lora,
        cache_salt=request.cache_salt,
        reporting=reporting(None, params.extra_args, headers),
        reads_prefix_cache=params.prompt_logprobs is None,
        elsewhere=elsewhere(
            request, request.kv_transfer_params or _object((params.extra_args or {}).get("kv_transfer_params")), headers
        ),
        rank=asked_rank(headers),
        encoded=features.hashes if features is not None and facts.encodes else (),
        rejection=rejection,
    )


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _rejection(
    completion: CompletionRequest, token_ids: list[int], facts: Facts, headers: Mapping[str, str]
) -> ApiError | None:
    """What the engine finds wrong when it takes the request."""
    if len(token_ids) > facts.max_model_len:
        return validation_error(
            f"The decoder prompt (length {len(token_ids)}) is longer than the maximum model length of "
            f"{facts.max_model_len}. Make sure that `max_model_len` is no smaller than the number of text tokens."
        )
    return late_problem(
        completion,
        [token_ids],
        vocab_size=facts.tokenizer.vocab_size,
        max_logprobs=facts.settings.max_logprobs,
        max_model_len=facts.max_model_len,
        rank=asked_rank(headers),
        ranks=facts.ranks,
    )


def rendered_json(value: Any) -> bytes:
    """A body as it is sent, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
