"""Section 8 of vLLM's contract: what benchmarks send; section 6: how a server starts; versions."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from tests.served import Serve, clean_environment, free_port

from .conftest import CHAT, COMPLETIONS, INSTANT, Vllm, chunks_of

BENCH_CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}],
    "max_completion_tokens": 12,
    "stream": True,
    "stream_options": {"include_usage": True},
    "ignore_eos": True,
}
BENCH_COMPLETION: dict[str, Any] = {
    "model": "m",
    "prompt": "Hello there",
    "repetition_penalty": 1.0,
    "max_tokens": 12,
    "logprobs": None,
    "stream": True,
    "stream_options": {"include_usage": True},
    "ignore_eos": True,
}


def test_vllm_bench_completions(plain: Vllm) -> None:
    """8: `vllm bench serve --backend vllm`: every chunk with choices counts; the usage chunk has none."""
    *chunks, usage = chunks_of(plain.post(COMPLETIONS, BENCH_COMPLETION, x_request_id="bench-0"))
    assert all(chunk["choices"] for chunk in chunks)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 12)


def test_vllm_bench_chat(plain: Vllm) -> None:
    """8: `vllm bench serve --backend openai-chat`: content is a list of parts; the role chunk has empty content."""
    role, *chunks, usage = chunks_of(plain.post(CHAT, BENCH_CHAT, x_request_id="bench-0"))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 12)


def test_vllm_bench_finds_the_model(plain: Vllm) -> None:
    """8: without --model it takes data[0].id of /v1/models."""
    assert plain.get("/v1/models").json()["data"][0]["id"] == "m"


def test_vllm_bench_aligns_prompts(plain: Vllm) -> None:
    """8: its random prompts go through /tokenize and /detokenize and come back with as many tokens."""
    tokens = plain.post("/tokenize", {"model": "m", "prompt": "a b c d", "add_special_tokens": False}).json()["tokens"]
    text = plain.post("/detokenize", {"model": "m", "tokens": tokens}).json()["prompt"]
    again = plain.post("/tokenize", {"model": "m", "prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert again == tokens


def test_guidellm(plain: Vllm) -> None:
    """8: guidellm asks /health and /v1/models, and streams with continuous usage, stop null and ignore_eos."""
    assert plain.get("/health").status_code == 200
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(plain.post(CHAT, {**BENCH_CHAT, "stop": None, "stream_options": options}))
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_aiperf(plain: Vllm) -> None:
    """8: aiperf sends min_tokens beside max_completion_tokens; the answer has exactly so many."""
    chunks = chunks_of(plain.post(CHAT, {**BENCH_CHAT, "min_tokens": 12}))
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_routers_fields(plain: Vllm) -> None:
    """8: what routers add to a request is accepted."""
    added = {"no_stop_trim": False, "separate_reasoning": True, "stream_reasoning": True, "return_hidden_states": False}
    assert plain.chat(max_tokens=1, **added).status_code == 200


def test_refused_until_ready(tmp_path: Path) -> None:
    """6, 1e: connections are refused until the server is ready; its first /health is 200."""
    port = free_port()
    command = [Path(sys.executable).with_name("ghostfleet"), "serve", "--model", "m", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--startup-duration", "1s"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
    try:
        refusals, end = 0, time.monotonic() + 120
        while True:
            assert time.monotonic() < end
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except ConnectionRefusedError:
                refusals += 1
                time.sleep(0.02)
        assert refusals > 10
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    finally:
        process.terminate()
        process.wait(20)


def test_version_boundaries(serve: Serve) -> None:
    """Versions: before 0.32 prompt and max_tokens beyond the context are 400, and a 404 names no aliases."""
    served = serve(*INSTANT, "--vllm-version", "0.31.0")
    assert httpx.get(f"{served.url}/version").json() == {"version": "0.31.0"}
    refused = httpx.post(f"{served.url}{COMPLETIONS}", json={"prompt": [7] * 500, "max_tokens": 100})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(
        "This model's maximum context length is 512 tokens. However, you requested 100 output tokens and your prompt "
        "contains 500 input tokens, for a total of 600 tokens."
    )
    missing = httpx.post(f"{served.url}{COMPLETIONS}", json={"model": "x", "prompt": "y"}).json()["error"]["message"]
    assert missing == "The model `x` does not exist."
