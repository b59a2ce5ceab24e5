"""vllm-router in front of real servers: its policies, prefill/decode disaggregation, and what failures do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.shell import Failure
from tests.hosted import Here, Host, hosting
from tests.schedulers.routers import Router, installed, routing
from tests.served import free_port

QUICK = ("--time-to-first-token", "1ms", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
PROMPT = list(range(500, 600))

Route = Callable[..., Router]


@pytest.fixture(scope="session")
def program() -> Path:
    try:
        return installed()
    except Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"vllm-router must run in CI: {error}", pytrace=False)
        pytest.skip(f"vllm-router cannot be installed: {str(error).splitlines()[0]}")


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting() as made:
        yield made


@pytest.fixture
def route(program: Path, tmp_path: Path) -> Iterator[Route]:
    """Starts routers; they end with the test."""
    with ExitStack() as stack:
        yield lambda *flags: stack.enter_context(routing(program, tmp_path / "router.log", *flags))


def took(server: Here) -> list[dict[str, Any]]:
    """The requests that a server has ended, the last one first."""
    told: list[dict[str, Any]] = httpx.get(f"{server.admin_url}/admin/requests").json()["requests"]
    return told


def shares(servers: list[Here]) -> list[int]:
    return [len(took(server)) for server in servers]


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers(servers: list[Here]) -> tuple[str, ...]:
    return ("--worker-urls", *(server.url for server in servers))


# --- policies --------------------------------------------------------------------------------------


def test_round_robin_gives_every_server_the_same(host: Host, route: Route) -> None:
    servers = [host(*QUICK) for _ in range(3)]
    router = route(*workers(servers), "--policy", "round_robin")
    for number in range(12):
        answer = router.post(prompt=f"question {number}", max_tokens=2, ignore_eos=True)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 2
    assert shares(servers) == [4, 4, 4]


def test_streams_come_through_as_they_are_sent(host: Host, route: Route) -> None:
    server = host("--time-to-first-token", "1ms", "--inter-token-latency", "50ms")
    router = route(*workers([server]), "--policy", "round_robin")
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 10, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{router.url}/v1/completions", json=body, timeout=60) as answer:
        came = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]
    assert len(came) == 10
    assert came[-1] - came[0] >= 0.3  # they did not come in one piece at the end


def test_cache_aware_sends_a_prompt_to_where_its_beginning_is(host: Host, route: Route) -> None:
    """And the server finds it in its prefix cache."""
    servers = [host(*QUICK) for _ in range(3)]
    router = route(*workers(servers), "--policy", "cache_aware", "--cache-threshold", "0.5")
    beginnings = [" ".join(f"{topic}{number}" for number in range(120)) for topic in ("storm", "garden", "engine")]
    for turn in range(4):
        for beginning in beginnings:
            assert router.post(prompt=f"{beginning} {turn}", max_tokens=2).status_code == 200
    records = [record for server in servers for record in took(server)]
    assert len(records) == 12
    # Each beginning is computed once; wherever its first request went, the others found it there.
    assert sum(record["cachedTokens"] == 0 for record in records) == len(beginnings)


def test_power_of_two_avoids_the_busy_server(host: Host, route: Route) -> None:
    busy, idle = host("--time-to-first-token", "20s", "--inter-token-latency", "1ms"), host(*QUICK)
    router = route(*workers([busy, idle]), "--policy", "power_of_two")
    with ThreadPoolExecutor(8) as pool:
        # Whoever chooses the busy one stays there, and then it has more requests than the other for good.
        first = [pool.submit(router.post, prompt=PROMPT, max_tokens=2) for _ in range(8)]
        eventually(lambda: busy.state()["running"] + len(took(idle)) == 8)
        stuck = busy.state()["running"]
        assert stuck > 0
        before = len(took(idle))
        for _ in range(20):
            assert router.post(prompt=PROMPT, max_tokens=2).status_code == 200
        assert len(took(idle)) == before + 20
        assert busy.state()["running"] == stuck
        for answer in first:
            answer.result()


# --- prefill and decode ----------------------------------------------------------------------------


def disaggregated(host: Host, connector: str, role: str, port: int, *flags: str) -> Here:
    config = json.dumps({"kv_connector": connector, "kv_role": role})
    ports = ("--kv-side-channel-port", str(port), "--kv-bootstrap-port", str(port))
    return host("--kv-transfer-config", config, *ports, "--inter-token-latency", "1ms", *flags)


@pytest.mark.parametrize(("kind", "connector"), [("nixl", "NixlConnector"), ("mooncake", "MooncakeConnector")])
def test_prefill_and_decode(host: Host, route: Route, kind: str, connector: str) -> None:
    """The first token of the decoding side waits for the prefill and for the transfer, and for nothing else."""
    port = free_port()
    prefill = disaggregated(host, connector, "kv_producer", port, "--time-to-first-token", "400ms")
    decode = disaggregated(
        host,
        connector,
        "kv_consumer",
        free_port(),
        *("--time-to-first-token", "60s", "--kv-transfer-bandwidth", "50M", "--enable-prompt-tokens-details"),
    )
    bootstrap = str(port) if kind == "mooncake" else "none"
    router = route(
        *("--vllm-pd-disaggregation", "--kv-connector", kind, "--policy", "round_robin"),
        *("--prefill", prefill.url, bootstrap, "--decode", decode.url),
    )
    began = time.monotonic()
    answer = router.post(prompt=PROMPT, max_tokens=5, ignore_eos=True)
    took_seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 5
    transfer = 7 * 16 * 128 * 1024 / 50e6
    assert 0.4 + transfer <= took_seconds < 30
    (first,), (second,) = took(prefill), took(decode)
    assert (first["promptTokens"], first["completionTokens"], first["cachedTokens"]) == (100, 1, 0)
    assert (second["promptTokens"], second["completionTokens"]) == (100, 5)
    assert second["timeToFirstTokenSeconds"] >= transfer
    eventually(lambda: prefill.state()["kvTransfer"]["held"] == 0)
    assert prefill.state()["kvUsage"] == decode.state()["kvUsage"] == 0
    again = router.post(prompt=PROMPT, max_tokens=5, ignore_eos=True).json()
    # With NIXL the prefilling side tells what it found; with Mooncake all of it came from there.
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (96 if kind == "nixl" else 100)
    assert took(prefill)[0]["cachedTokens"] == 96


def test_prefill_and_decode_of_chats_as_a_stream(host: Host, route: Route) -> None:
    prefill = disaggregated(host, "NixlConnector", "kv_producer", free_port(), "--time-to-first-token", "1ms")
    decode = disaggregated(host, "NixlConnector", "kv_consumer", free_port(), "--time-to-first-token", "60s")
    router = route(
        *("--vllm-pd-disaggregation", "--kv-connector", "nixl", "--policy", "round_robin"),
        *("--prefill", prefill.url, "none", "--decode", decode.url),
    )
    messages = [{"role": "user", "content": "Tell me of a garden. " * 20}]
    answer = router.post("/v1/chat/completions", messages=messages, max_tokens=4, ignore_eos=True, stream=True)
    frames = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert frames[-1] == "data: [DONE]"
    assert json.loads(frames[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert [len(took(server)) for server in (prefill, decode)] == [1, 1]
    eventually(lambda: prefill.state()["kvTransfer"]["held"] == 0)


# --- failures --------------------------------------------------------------------------------------


def test_the_circuit_of_a_failing_server_opens_and_closes_again(host: Host, route: Route) -> None:
    good, bad = host(*QUICK), host(*QUICK)
    router = route(
        *(*workers([good, bad]), "--policy", "round_robin"),
        *("--cb-failure-threshold", "3", "--cb-success-threshold", "1", "--cb-timeout-duration-secs", "2"),
        *("--retry-max-retries", "3", "--retry-initial-backoff-ms", "10"),
    )
    patch = f"{bad.admin_url}/admin/config"
    assert httpx.patch(patch, json={"failures": [{"type": "ServerError"}]}).status_code == 200
    for _ in range(20):
        assert router.post(prompt=PROMPT, max_tokens=2).status_code == 200  # it tries the other one
    failed = len(took(bad))
    assert 3 <= failed < 10  # then it asks no more; but half open it tries again, on a slow machine more than once
    assert all(record["fault"] == "ServerError" for record in took(bad))
    assert httpx.patch(patch, json={"failures": []}).status_code == 200

    def served() -> bool:
        assert router.post(prompt=PROMPT, max_tokens=2).status_code == 200
        return took(bad)[0]["fault"] is None

    eventually(served)
