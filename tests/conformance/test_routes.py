"""Section 1a of vLLM's contract: routes."""

from __future__ import annotations

import pytest

from .conftest import CHAT, Vllm


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")])
def test_health(plain: Vllm, method: str, path: str) -> None:
    """1a: GET /health, GET and POST /ping answer 200 with an empty body."""
    response = plain.client.request(method, path)
    assert (response.status_code, response.content) == (200, b"")


def test_version(plain: Vllm) -> None:
    """1a: GET /version tells the version of vLLM."""
    assert plain.get("/version").json() == {"version": "0.33.0"}


def test_load_without_tracking(plain: Vllm) -> None:
    """1a: GET /load stays 0 without --enable-server-load-tracking."""
    plain.chat()
    assert plain.get("/load").json() == {"server_load": 0}


def test_load_with_tracking(full: Vllm) -> None:
    """1a: GET /load with --enable-server-load-tracking is 0 again when requests have ended."""
    full.chat()
    assert full.get("/load").json() == {"server_load": 0}


def test_kv_event_sources(plain: Vllm) -> None:
    """1a: GET /kv_event_sources is {} while events are off."""
    assert plain.get("/kv_event_sources").json() == {}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_documentation(plain: Vllm, path: str) -> None:
    """1a: /docs, /redoc and /openapi.json are served unless switched off."""
    assert plain.get(path).status_code == 200


def test_models(plain: Vllm) -> None:
    """8: GET /v1/models has a card per name, `root` being the model's own, with vLLM's keys and permission."""
    body = plain.get("/v1/models").json()
    assert body["object"] == "list"
    [card] = body["data"]
    assert list(card) == ["id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"]
    assert (card["id"], card["root"], card["owned_by"], card["parent"]) == ("m", "org/model", "vllm", None)
    assert card["max_model_len"] == 512
    assert card["permission"][0]["object"] == "model_permission"


def test_no_single_model(plain: Vllm) -> None:
    """8: GET /v1/models/{id} does not exist."""
    response = plain.get("/v1/models/m")
    assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("POST", "/v1/nowhere", 404, "Not Found"),
        ("GET", CHAT, 405, "Method Not Allowed"),
        ("DELETE", "/v1/models", 405, "Method Not Allowed"),
    ],
)
def test_unknown(plain: Vllm, method: str, path: str, status: int, detail: str) -> None:
    """8: an unknown path or method keeps FastAPI's {"detail": ...}."""
    response = plain.client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"detail": detail})


def test_tokenize(plain: Vllm) -> None:
    """8: POST /tokenize has count, max_model_len, tokens and token_strs; special tokens by default."""
    body = plain.post("/tokenize", {"prompt": "Hello there"}).json()
    assert list(body) == ["count", "max_model_len", "tokens", "token_strs"]
    assert (body["count"], body["max_model_len"], body["token_strs"]) == (len(body["tokens"]), 512, None)
    named = plain.post("/tokenize", {"prompt": "Hello there", "return_token_strs": True}).json()
    assert len(named["token_strs"]) == named["count"]


def test_tokenize_chat(plain: Vllm) -> None:
    """8: POST /tokenize takes a conversation, and counts what the usage of the same chat counts."""
    messages = [{"role": "user", "content": "Hello there"}]
    count = plain.post("/tokenize", {"messages": messages}).json()["count"]
    assert count == plain.chat().json()["usage"]["prompt_tokens"]


def test_detokenize(plain: Vllm) -> None:
    """8: POST /detokenize gives back what was tokenized."""
    tokens = plain.post("/tokenize", {"prompt": "Grüße 🚀", "add_special_tokens": False}).json()["tokens"]
    assert plain.post("/detokenize", {"tokens": tokens}).json() == {"prompt": "Grüße 🚀"}


def test_tokenize_beyond_the_context(plain: Vllm) -> None:
    """8: /tokenize has no length limit."""
    assert plain.post("/tokenize", {"prompt": "word " * 2000}).json()["count"] > 512


def test_tokenizer_info(plain: Vllm, full: Vllm) -> None:
    """1a: GET /tokenizer_info exists only with --enable-tokenizer-info-endpoint."""
    assert plain.get("/tokenizer_info").status_code == 404
    assert "tokenizer_class" in full.get("/tokenizer_info").json()


DEVELOPMENT = ("/sleep", "/wake_up", "/pause", "/resume", "/reset_prefix_cache", "/reset_mm_cache", "/abort_requests")


@pytest.mark.parametrize("path", DEVELOPMENT)
def test_development_routes_are_off(plain: Vllm, path: str) -> None:
    """1a: the routes of development mode are 404 without VLLM_SERVER_DEV_MODE=1."""
    assert plain.post(path, {}).status_code == 404


def test_reset_prefix_cache(full: Vllm) -> None:
    """1a: POST /reset_prefix_cache answers {"success": bool} and forgets cached blocks."""
    text = "one two three four five six seven eight nine ten " * 4
    full.chat(text, max_tokens=1)
    cached = full.chat(text, max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= 16
    assert full.client.post("/reset_prefix_cache").json() == {"success": True}
    assert full.chat(text, max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("path", ["/reset_mm_cache", "/reset_encoder_cache"])
def test_other_caches(full: Vllm, path: str) -> None:
    """1a: POST /reset_mm_cache and /reset_encoder_cache answer 200 with an empty body."""
    response = full.client.post(path)
    assert (response.status_code, response.content) == (200, b"")


def test_sleep(full: Vllm) -> None:
    """1a: /sleep, /wake_up and /is_sleeping tell their state; the gauge of section 2 shows it."""
    assert full.get("/is_sleeping").json() == {"is_sleeping": False}
    assert full.client.post("/sleep?level=1").json() == {"status": "sleeping", "level": 1}
    try:
        assert full.get("/is_sleeping").json() == {"is_sleeping": True}
        assert full.value("vllm:engine_sleep_state", sleep_state="weights_offloaded") == 1
        assert full.value("vllm:engine_sleep_state", sleep_state="awake") == 0
    finally:
        woken = full.client.post("/wake_up").json()
    assert woken == {"status": "awake", "tags": None}
    assert full.value("vllm:engine_sleep_state", sleep_state="awake") == 1
    assert full.chat(max_tokens=1).status_code == 200


def test_pause(full: Vllm) -> None:
    """1a: /pause turns new requests away until /resume; /is_paused tells."""
    assert full.client.post("/pause?mode=abort").json() == {"status": "paused"}
    try:
        assert full.get("/is_paused").json() == {"is_paused": True}
        response = full.chat()
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (503, "ServiceUnavailableError")
        assert error["message"].startswith("Generation is paused")
        streamed = full.chat(stream=True)
        assert streamed.status_code == 200
        assert '"code":503' in streamed.text.replace(" ", "")
        assert streamed.text.endswith("data: [DONE]\n\n")
    finally:
        assert full.client.post("/resume").json() == {"status": "resumed"}
    assert full.chat(max_tokens=1).status_code == 200


def test_abort_requests(full: Vllm) -> None:
    """1a: POST /abort_requests of requests that are not there answers without complaint."""
    body = full.post("/abort_requests", {"request_ids": ["nobody"]}).json()
    assert body["status"] == "aborted"


def test_server_header(plain: Vllm) -> None:
    """1: every answer says `server: uvicorn`, behind the date."""
    answers = [
        plain.get("/health"),
        plain.get("/nowhere"),
        plain.completion(),
        plain.completion(stream=True),
        plain.completion(stop=["x"]),
    ]
    assert [list(answer.headers.items())[1] for answer in answers] == [("server", "uvicorn")] * len(answers)


def test_cors(plain: Vllm) -> None:
    """1: CORS is open to every origin."""
    response = plain.get("/v1/models", Origin="http://elsewhere")
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_api_key_guards(guarded: Vllm, path: str) -> None:
    """1: paths under /v1 want the key; 401 {"error": "Unauthorized"} without it."""
    response = guarded.client.request("GET" if path.endswith("models") else "POST", path)
    assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})


def test_api_key_opens(guarded: Vllm) -> None:
    """1: the scheme is compared without case, the key exactly."""
    assert guarded.get("/v1/models", Authorization="bEaReR secret").status_code == 200
    assert guarded.get("/v1/models", Authorization="Bearer Secret").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/metrics", "/load", "/version", "/ping"])
def test_api_key_leaves_open(guarded: Vllm, path: str) -> None:
    """1: paths elsewhere, such as /health and /metrics, want no key."""
    assert guarded.get(path).status_code == 200


def test_api_key_leaves_tokenize_and_options_open(guarded: Vllm) -> None:
    """1: /tokenize wants no key, and OPTIONS is never asked for one."""
    assert guarded.post("/tokenize", {"prompt": "x"}).status_code == 200
    headers = {"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    assert guarded.client.options(CHAT, headers=headers).status_code == 200


def test_request_id_headers(plain: Vllm, full: Vllm) -> None:
    """1: X-Request-Id is answered only with --enable-request-id-headers: echoed, or 32 hex digits."""
    assert "x-request-id" not in plain.get("/health", **{"X-Request-Id": "abc"}).headers
    assert full.get("/health", **{"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"
    made = full.get("/health").headers["x-request-id"]
    assert len(made) == 32
    assert int(made, 16) >= 0
