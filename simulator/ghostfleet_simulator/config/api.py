"""How the serving API answers, whatever a request asks for; vLLM's flags."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ghostfleet_simulator.config.base import Flag, Settings, Switch, Whole


class Api(Settings):
    """What the serving API tells, and how it sends it."""

    enable_prompt_tokens_details: Annotated[Switch, Flag("enable-prompt-tokens-details")] = False
    """`usage` tells how many tokens of the prompt were in the prefix cache."""

    enable_per_request_metrics: Annotated[Switch, Flag("enable-per-request-metrics")] = False
    """Answers to one prompt tell their times in `metrics`."""

    enable_force_include_usage: Annotated[Switch, Flag("enable-force-include-usage")] = False
    """Every chunk of every stream holds the usage so far, and the last one of all, asked for or not."""

    enable_request_id_headers: Annotated[Switch, Flag("enable-request-id-headers")] = False
    """Every answer has the header `X-Request-Id`: the request's, or a random one."""

    enable_auto_tool_choice: Annotated[Switch, Flag("enable-auto-tool-choice")] = False
    """A chat may bring tools and leave the choice to the model: it is answered in words, as by a model that calls none.
    Else it is refused, as by a vLLM without this flag. The tools count in the prompt."""

    completions_to_the_end: Annotated[Switch, Flag("completions-to-the-end")] = False
    """A completion without `max_tokens` may use the rest of the context, as in llm-d-inference-sim; else 16 tokens."""

    return_tokens_as_token_ids: Annotated[Switch, Flag("return-tokens-as-token-ids")] = False
    """Tokens in logprobs are spelt `token_id:<id>` where a request does not say otherwise."""

    stream_interval: Annotated[Whole, Field(ge=1, le=1_000_000), Flag("stream-interval")] = 1
    """Tokens in a chunk of a stream, at least; the first and the last chunk may have fewer. A request can ask for
    more."""

    sse_keep_alive_seconds: Annotated[Whole, Field(ge=0, le=86400), Flag("sse-keep-alive-interval")] = 0
    """Seconds after which a silent stream gets a comment, so that proxies keep it open; 0 sends none."""

    max_logprobs: Annotated[Whole, Field(ge=-1, le=10_000_000), Flag("max-logprobs")] = 20
    """Most logprobs per token that a request can ask for; -1 sets no limit."""
