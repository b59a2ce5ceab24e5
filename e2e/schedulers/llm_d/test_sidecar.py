"""The whole way of a divided request: the picker decides, llm-d's sidecar sends the parts, blocks are transferred."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import Serve, Served, free_port

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import MODEL
from e2e.schedulers.llm_d.picker import LlmdPicker
from e2e.schedulers.llm_d.roles import ALWAYS, ENCODERS, IMAGES, PREFILLER, dividing, profiles
from e2e.schedulers.llm_d.sidecar import Connector, endpoints_file, in_front_of

CONNECTORS = {
    "nixl": Connector("nixlv2", "NixlConnector", "--kv-side-channel-port"),
    "mooncake": Connector("mooncake", "MooncakeConnector", "--kv-bootstrap-port", "--mooncake-bootstrap-port"),
    "sglang": Connector(
        "sglang", "SGLang", "--kv-bootstrap-port", sidecar_variable="SGLANG_BOOTSTRAP_PORT", dialect="sglang"
    ),
    "offloading": Connector("offloading", "OffloadingConnector", "--kv-side-channel-port", "--p2p-connector-port"),
}
PREFILL_S, TRANSFER_S = 0.3, 0.2
QUICK = ("--time-to-first-token", "300ms", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
SLOW = ("--time-to-first-token", "10m", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
"""One that computes no prompt itself within the time of a test."""
LATENCY = ("--kv-transfer-latency", "200ms")


def at(server: Served) -> str:
    return f"127.0.0.1:{server.port}"


def newest(server: Served) -> dict[str, Any]:
    """The last answer of a server, as it tells of it."""
    found: dict[str, Any] = httpx.get(f"{server.admin_url}/admin/requests", trust_env=False).json()["requests"][0]
    return found


def answered(server: Served) -> int:
    return int(httpx.get(f"{server.admin_url}/admin/requests?limit=1", trust_env=False).json()["total"])


def until_answered(count: int, *servers: Served) -> None:
    until("each has answered as often", lambda: [answered(server) for server in servers] == [count] * len(servers))


def ask(picker: LlmdPicker, body: dict[str, Any], path: str = "/v1/completions") -> httpx.Response:
    """Send a request where the picker says, with the headers that it sets, as a proxy does."""
    decision = picker.ask(body, path=path)
    headers = {name: value for name, value in decision.headers.items() if name in (PREFILLER, ENCODERS)}
    assert PREFILLER in headers
    answer = httpx.post(f"http://{decision.endpoint}{path}", json=body, headers=headers, timeout=90, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def completion(word: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": f"{word} " * 120, "max_tokens": 5, "ignore_eos": True, **fields}


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_prompt_is_computed_by_one_server_and_answered_by_another(
    serve: Serve, start: Start, sidecar_program: Path, tmp_path: Path, name: str
) -> None:
    """Whole and streamed: each of the two has one request, and time goes to the prompt and its transfer.

    The decoding one would take ten minutes to compute the prompt, so an answer is one to blocks that came, and they
    come by what both were told in common: a transfer's id, a bootstrap room, an engine and its blocks.
    """
    connector, port = CONNECTORS[name], free_port()
    prefill = serve(*connector.flags("kv_producer", port), *QUICK, *LATENCY)
    decode = serve(*connector.flags("kv_consumer", free_port()), *SLOW, *LATENCY)
    with in_front_of(decode, sidecar_program, connector, port, tmp_path / "sidecar.log") as sidecar:
        endpoints = endpoints_file(tmp_path, connector.dialect, decode=sidecar, prefill=at(prefill))
        picker = start(endpoints, *dividing(prefill=ALWAYS), profiles=profiles("prefill", "decode"))
        for number, (word, stream) in enumerate((("alpha", False), ("omega", True)), start=1):
            began = time.monotonic()
            answer = ask(picker, completion(word, stream=stream))
            assert time.monotonic() - began >= PREFILL_S + TRANSFER_S
            assert answer.text.endswith("data: [DONE]\n\n") == stream
            until_answered(number, prefill, decode)
            first, second = newest(prefill), newest(decode)
            assert first["promptTokens"] == second["promptTokens"] > 100
            assert second["completionTokens"] == 5
            # SGLang's are asked for the same length as the other side, and stop after a token by their role.
            assert first["completionTokens"] == 1
        until("no block is held any more", lambda: prefill.state()["kvTransfer"]["held"] == 0)


def test_clients_are_told_of_what_the_prefilling_server_had_cached(
    serve: Serve, start: Start, sidecar_program: Path, tmp_path: Path
) -> None:
    """The sidecar puts it into the answer of the decoding one."""
    connector, port = CONNECTORS["nixl"], free_port()
    prefill = serve(*connector.flags("kv_producer", port), *QUICK)
    decode = serve(*connector.flags("kv_consumer", free_port()), *SLOW)
    with in_front_of(decode, sidecar_program, connector, port, tmp_path / "sidecar.log") as sidecar:
        endpoints = endpoints_file(tmp_path, decode=sidecar, prefill=at(prefill))
        picker = start(endpoints, *dividing(prefill=ALWAYS), profiles=profiles("prefill", "decode"))
        for cached in (False, True):
            usage = ask(picker, completion("alpha")).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == newest(prefill)["cachedTokens"]
            assert (newest(prefill)["cachedTokens"] > 100) == cached


def test_a_server_that_has_the_prompt_is_not_sent_another_ones(
    serve: Serve, start: Start, sidecar_program: Path, tmp_path: Path
) -> None:
    """Shared storage: the decoding server is asked first, and declines a prompt of which it has too little."""
    connector = Connector("shared-storage", "SharedStorageConnector", "--kv-side-channel-port")
    prefill = serve(*connector.flags("kv_both", free_port()), *QUICK)
    decode = serve(*connector.flags("kv_both", free_port()), *QUICK)
    with in_front_of(decode, sidecar_program, connector, free_port(), tmp_path / "sidecar.log") as sidecar:
        endpoints = endpoints_file(tmp_path, decode=sidecar, prefill=at(prefill))
        picker = start(endpoints, *dividing(prefill=ALWAYS), profiles=profiles("prefill", "decode"))
        for cached in (False, True):
            before = answered(prefill), answered(decode)
            answer = ask(picker, completion("alpha", cache_hit_threshold=0.8)).json()
            assert answer["choices"][0]["finish_reason"] == "length"
            assert answer["usage"]["completion_tokens"] == 5
            # Declined, computed elsewhere, asked again; then taken at once.
            legs = (0, 1) if cached else (1, 2)
            assert (answered(prefill) - before[0], answered(decode) - before[1]) == legs


def test_an_image_goes_to_an_encoder_before_the_rest(
    serve: Serve, start: Start, sidecar_program: Path, tmp_path: Path
) -> None:
    """Three parts: two images are encoded, each by a request of its own, the prompt is computed, the answer made."""
    connector, port = CONNECTORS["nixl"], free_port()
    encode = serve("--mm-encoder-only", *QUICK)
    prefill = serve(*connector.flags("kv_producer", port), "--multimodal", *QUICK)
    decode = serve(*connector.flags("kv_consumer", free_port()), "--multimodal", *SLOW)
    log = tmp_path / "sidecar.log"
    with in_front_of(decode, sidecar_program, connector, port, log, "--ec-connector=ec-nixl") as sidecar:
        endpoints = endpoints_file(tmp_path, decode=sidecar, prefill=at(prefill), encode=at(encode))
        picker = start(
            endpoints, *dividing(prefill=ALWAYS, encode=IMAGES), profiles=profiles("encode", "prefill", "decode")
        )
        images = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in ("AAAA", "BBBB")
        ]
        content = [{"type": "text", "text": "what is this? " * 40}, *images]
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 5, "ignore_eos": True}
        answer = ask(picker, body, "/v1/chat/completions").json()
        assert answer["usage"]["completion_tokens"] == 5
        assert [answered(server) for server in (encode, prefill, decode)] == [2, 1, 1]
        assert "ec_transfer_params" not in log.read_text(), "the encoder told nothing"
