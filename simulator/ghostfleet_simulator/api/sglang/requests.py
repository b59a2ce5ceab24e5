"""`POST /generate`: what is sent and what it asks for.

Source: SGLang 0.5.10 srt/managers/io_struct.py (`GenerateReqInput`) and srt/sampling/sampling_params.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from ghostfleet_simulator.api import preflight
from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import bad_request
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.requests import CompletionRequest
from ghostfleet_simulator.runtime.work import Work

_TokenIds = list[int]


class SamplingParams(BaseModel):
    """How answers are made; what is not named here is accepted and means nothing."""

    model_config = ConfigDict(extra="allow")

    max_new_tokens: int = Field(default=128, ge=0)
    min_new_tokens: int = Field(default=0, ge=0)
    n: int = Field(default=1, ge=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    temperature: float = Field(default=1.0, ge=0)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    sampling_seed: int | None = None


class GenerateRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="allow")

    text: str | list[str] | None = None
    input_ids: _TokenIds | list[_TokenIds] | None = None
    sampling_params: SamplingParams = SamplingParams()
    rid: str | None = None
    stream: bool = False
    lora_path: str | None = None

    @property
    def many(self) -> bool:
        """Whether the answer is a list: of several prompts, or several answers to one."""
        several = isinstance(self.text, list) or bool(self.input_ids and isinstance(self.input_ids[0], list))
        return several or self.sampling_params.n > 1


GENERATE: Final[Parser[GenerateRequest]] = Parser(GenerateRequest)


def work_of(request: GenerateRequest, facts: Facts, headers: Mapping[str, str]) -> Work:
    """What the request asks for; `headers` have lower-case names. Raises `ApiError`."""
    if (request.text is None) == (request.input_ids is None):
        raise bad_request("Either text, input_ids or input_embeds should be provided.")
    params = request.sampling_params
    fields: dict[str, Any] = {
        "prompt": request.input_ids if request.text is None else request.text,
        "model": request.lora_path,
        "max_tokens": max(params.max_new_tokens, 1),
        "min_tokens": params.min_new_tokens,
        "n": params.n,
        "stop": params.stop or [],
        "stop_token_ids": params.stop_token_ids or [],
        "temperature": params.temperature,
        "ignore_eos": params.ignore_eos,
        "skip_special_tokens": params.skip_special_tokens,
        "seed": params.sampling_seed,
        "stream": request.stream,
    }
    work = preflight.completion(CompletionRequest.model_validate(fields), facts, headers)
    return replace(work, id=request.rid) if request.rid else work
