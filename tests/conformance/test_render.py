"""Section 1 of vLLM's contract: the render routes, and SageMaker's /invocations."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import CHAT, COMPLETIONS, Vllm, refused

HELLO = [{"role": "user", "content": "Hello there"}]
RENDERED = [
    *("request_id", "token_ids", "token_offsets", "features", "content_parts", "sampling_params", "model"),
    *("reasoning_ended", "reasoning_parser_kwargs", "return_token_ids", "output_mode", "parse_context", "stream"),
    *("stream_options", "cache_salt", "priority", "kv_transfer_params", "ec_transfer_params"),
]


def test_render_chat(plain: Vllm) -> None:
    """1a: POST /v1/chat/completions/render answers one request for /inference/v1/generate."""
    body = plain.post(f"{CHAT}/render", {"messages": HELLO, "max_tokens": 5, "seed": 3}).json()
    assert list(body) == RENDERED
    assert body["token_ids"] == plain.post("/tokenize", {"messages": HELLO}).json()["tokens"]
    assert (body["sampling_params"]["max_tokens"], body["sampling_params"]["seed"]) == (5, 3)
    assert (body["features"], body["output_mode"], body["stream"]) == (None, "tokens", False)


@pytest.mark.parametrize(("prompt", "count"), [("one", 1), (["one", "two"], 2), ([5, 6], 1), ([[5], [6, 7], [8]], 3)])
def test_render_completion(plain: Vllm, prompt: Any, count: int) -> None:
    """1a: POST /v1/completions/render answers a list, whatever the prompt's form, with one request per prompt."""
    body = plain.post(f"{COMPLETIONS}/render", {"prompt": prompt}).json()
    assert isinstance(body, list)
    assert [list(request) for request in body] == [RENDERED] * count


def test_render_ids(plain: Vllm) -> None:
    """1b: rendered requests have the ids that the requests themselves would have, of several prompts numbered."""
    chat = plain.post(f"{CHAT}/render", {"messages": HELLO}, X_Request_Id="abc").json()
    assert chat["request_id"] == "chatcmpl-abc"
    two = plain.post(f"{COMPLETIONS}/render", {"prompt": ["a", "b"]}, X_Request_Id="abc").json()
    assert [request["request_id"] for request in two] == ["cmpl-abc-0", "cmpl-abc-1"]


def test_render_default_limit(plain: Vllm) -> None:
    """1b: a rendered chat without a limit has the rest of the context as max_tokens."""
    body = plain.post(f"{CHAT}/render", {"messages": HELLO}).json()
    assert body["sampling_params"]["max_tokens"] == 512 - len(body["token_ids"])


def test_render_carries(plain: Vllm) -> None:
    """1b: what is not the renderer's to judge is handed on."""
    handed = {"priority": 3, "cache_salt": "s", "kv_transfer_params": {"do_remote_decode": True}, "model": "m"}
    body = plain.post(f"{CHAT}/render", {"messages": HELLO, **handed}).json()
    assert {name: body[name] for name in handed} == handed


def test_render_then_generate(plain: Vllm) -> None:
    """1a: what was rendered generates what the request itself would have."""
    asked = {"messages": HELLO, "max_tokens": 6, "ignore_eos": True, "seed": 7, "return_token_ids": True}
    itself = plain.post(CHAT, asked).json()
    rendered = plain.post(f"{CHAT}/render", asked).json()
    generated = plain.post("/inference/v1/generate", rendered).json()
    assert generated["usage"]["prompt_tokens"] == itself["usage"]["prompt_tokens"]
    assert generated["usage"]["completion_tokens"] == itself["usage"]["completion_tokens"] == 6


def test_render_generates_nothing(plain: Vllm) -> None:
    """2: rendering touches no engine metric."""
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_queries_total")
    before = [plain.value(name) for name in names]
    plain.post(f"{CHAT}/render", {"messages": HELLO})
    assert [plain.value(name) for name in names] == before


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {"messages": HELLO, "model": "x"}, (404, "NotFoundError", "The model `x` does not exist.")),
        (
            COMPLETIONS,
            {"prompt": "word " * 600},
            (400, "BadRequestError", "This model's maximum context length is"),
        ),
        (COMPLETIONS, {}, (400, "BadRequestError", "Either prompt or prompt_embeds must be provided")),
        (CHAT, {"messages": "x"}, (400, "Bad Request", "1 validation error:")),
        (
            CHAT,
            {"messages": HELLO, "use_beam_search": True},
            (400, "BadRequestError", "Beam search is not supported by the render endpoint"),
        ),
    ],
)
def test_render_refusals(plain: Vllm, path: str, body: Any, expected: tuple[int, str, str]) -> None:
    """1c: what cannot be generated cannot be rendered."""
    status, type_, message, _ = refused(plain.post(f"{path}/render", body))
    assert (status, type_) == expected[:2]
    assert message.startswith(expected[2])


def test_invocations(plain: Vllm) -> None:
    """1a: POST /invocations answers a chat or a completion, whichever the body is."""
    assert plain.post("/invocations", {"messages": HELLO, "max_tokens": 2}).json()["object"] == "chat.completion"
    assert plain.post("/invocations", {"prompt": "x", "max_tokens": 2}).json()["object"] == "text_completion"


def test_invocations_stream(plain: Vllm) -> None:
    """1a: /invocations streams where the body says so."""
    response = plain.post("/invocations", {"messages": HELLO, "max_tokens": 2, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert '"object":"chat.completion.chunk"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": 5}', "Cannot find suitable handler for request. Expected one of: ['ChatCompletionRequest',"),
        ("[]", "Cannot find suitable handler for request. Expected one of: "),
        ("{", "JSON decode error: "),
        ('{"messages": [], "top_logprobs": 2}', "when using `top_logprobs`, `logprobs` must be set to true."),
    ],
)
def test_invocations_refusals(plain: Vllm, content: str, message: str) -> None:
    """1c: a body of /invocations that is neither is 400."""
    response = plain.client.post("/invocations", content=content, headers={"content-type": "application/json"})
    status, _, told, _ = refused(response)
    assert status == 400
    assert told.startswith(message)


def test_invocations_unknown_model(plain: Vllm) -> None:
    """1c: /invocations answers the errors of the route that the body is for."""
    assert refused(plain.post("/invocations", {"prompt": "x", "model": "y"}))[0] == 404


def test_invocations_want_no_key(guarded: Vllm) -> None:
    """1: /invocations wants no key."""
    assert guarded.post("/invocations", {"prompt": "x", "max_tokens": 1}).status_code == 200


def test_invocations_are_counted_as_such(plain: Vllm) -> None:
    """2: http_requests_total has /invocations under its own path."""
    plain.post("/invocations", {"prompt": "x", "max_tokens": 1})
    assert plain.value("http_requests_total", handler="/invocations", method="POST", status="2xx") >= 1
