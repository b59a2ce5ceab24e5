"""What a body comes to, for each route that takes a large one: pure, so that it can be done anywhere (`api.reading`).

Every function takes the facts of the server, the body and its headers by their lower-case names, and raises `ApiError`
for a bad body, `HTTPException` for bytes that are no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from ghostfleet_simulator.api import limits, preflight
from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import ApiError, bad_request, internal_error, wrong_media_type
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.render import render_chat, render_completion
from ghostfleet_simulator.api.requests import CHAT, COMPLETION, DETOKENIZE, TOKENIZE, TokenizeCompletionRequest
from ghostfleet_simulator.api.token_requests import GENERATE, rendered_json, work_of
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.runtime.work import Work

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A request to generate: what admission and injected failures go by, and the work, or what is wrong with it.

    That comes last: a fault, an unknown model and a full queue go before it.
    """

    model: str | None
    n: int
    work: Work | ApiError
    output_mode: str = "tokens"

    def checked_work(self) -> Work:
        """The work. Raises what is wrong with it, a copy: the traceback holds this very object."""
        if isinstance(self.work, ApiError):
            raise copy(self.work)
        return self.work


def judged_chat(facts: Facts, body: bytes, headers: Headers) -> Judged:
    """`/v1/chat/completions`."""
    request = CHAT.parse(body, _content_type(headers))
    return Judged(request.model, request.n or 1, _outcome(preflight.chat, request, facts, headers))


def judged_completion(facts: Facts, body: bytes, headers: Headers) -> Judged:
    """`/v1/completions`."""
    request = COMPLETION.parse(body, _content_type(headers))
    return Judged(request.model, request.n or 1, _outcome(preflight.completion, request, facts, headers))


def judged_tokens(facts: Facts, body: bytes, headers: Headers) -> Judged:
    """`/inference/v1/generate`."""
    request = GENERATE.parse(body, _content_type(headers))
    return Judged(request.model, 1, _outcome(work_of, request, facts, headers), request.output_mode)


def judged(
    model: str | None, n: int, judge: Callable[..., Work], request: Any, facts: Facts, headers: Headers
) -> Judged:
    """A request of any other form, of which `judge` knows what it asks for."""
    return Judged(model, n, _outcome(judge, request, facts, headers))


def _outcome(judge: Callable[..., Work], request: Any, facts: Facts, headers: Headers) -> Work | ApiError:
    try:
        work = judge(request, facts, headers)
    except ApiError as error:
        return copy(error)
    if work.rejection is None:
        return work
    # Nothing is made of these prompts, which may be millions of tokens.
    return replace(work, prompts=tuple(replace(prompt, token_ids=[], text=None, echo=None) for prompt in work.prompts))


_INVOKED: Final = (
    (Endpoint.CHAT, "ChatCompletionRequest", CHAT, preflight.chat),
    (Endpoint.COMPLETIONS, "CompletionRequest", COMPLETION, preflight.completion),
)
"""In the order in which a body is tried."""


def invoked(facts: Facts, body: bytes, headers: Headers) -> tuple[Endpoint, Judged]:
    """`/invocations`: a chat or a completion, whichever the body fits."""
    if _content_type(headers).lower().partition(";")[0] != "application/json":
        raise wrong_media_type()
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "Bad Request", f"JSON decode error: {error}") from None
    for endpoint, _, parser, judge in _INVOKED:
        try:
            request = _parsed(parser, body)
        except ApiError as error:
            if error.type == "Bad Request":  # it does not fit this model; contradictions are answered at once
                continue
            raise
        return endpoint, Judged(request.model, request.n or 1, _outcome(judge, request, facts, headers))
    names = [name for _, name, _, _ in _INVOKED]
    raise bad_request(f"Cannot find suitable handler for request. Expected one of: {names}")


def _parsed(parser: Parser[Any], body: bytes) -> Any:
    return parser.parse(body, "application/json")


def rendered_chat(facts: Facts, body: bytes, headers: Headers) -> bytes:
    """`/v1/chat/completions/render`: the body of the answer."""
    return rendered_json(render_chat(CHAT.parse(body, _content_type(headers)), facts, headers))


def rendered_completion(facts: Facts, body: bytes, headers: Headers) -> bytes:
    """`/v1/completions/render`: the body of the answer."""
    return rendered_json(render_completion(COMPLETION.parse(body, _content_type(headers)), facts, headers))


def tokenized(facts: Facts, body: bytes, headers: Headers) -> bytes:
    """`/tokenize`: the body of the answer."""
    request = TOKENIZE.parse(body, _content_type(headers))
    facts.check_model(request.model)
    if isinstance(request, TokenizeCompletionRequest):
        text = request.prompt
    else:
        text = preflight.chat_prompt(request, preflight.chat_messages(request, facts), facts)
    tokens = limits.encoded(text, facts, add_special_tokens=request.add_special_tokens)
    return rendered_json(
        {
            "count": len(tokens),
            "max_model_len": facts.max_model_len,
            "tokens": tokens,
            "token_strs": facts.tokenizer.token_strings(tokens) if request.return_token_strs else None,
        }
    )


def detokenized(facts: Facts, body: bytes, headers: Headers) -> bytes:
    """`/detokenize`: the body of the answer."""
    request = DETOKENIZE.parse(body, _content_type(headers))
    facts.check_model(request.model)
    return rendered_json({"prompt": facts.tokenizer.decode(request.tokens, skip_special_tokens=False)})


def to_abort(known: frozenset[str], _facts: Facts, body: bytes, _headers: Headers) -> list[str]:
    """`/inference/v1/abort_requests`: which of the requests that are `known` shall end."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "Bad Request", f"JSON decode error: {error}") from None
    if not isinstance(tree, dict):
        raise internal_error(f"'{type(tree).__name__}' object has no attribute 'get'")
    ids = tree.get("request_ids")
    if ids is None:
        raise ApiError(400, "Bad Request", "Missing 'request_ids' in request body")
    wanted = [ids] if isinstance(ids, str) else ids if isinstance(ids, list) else []
    return sorted(known.intersection(one for one in wanted if isinstance(one, str)))


def _content_type(headers: Headers) -> str:
    return headers.get("content-type", "")
