"""sglang-router 0.3.2, unmodified, in front of servers that show themselves as SGLang."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.schedulers.routers import SGLANG_ROUTER, Router, answered, inject, required, routing, until
from tests.served import Serve, Served

QUICK = ("--dialect", "sglang", "--time-to-first-token", "1ms", "--inter-token-latency", "1ms")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}

Start = Callable[..., Router]


pytestmark = pytest.mark.timeout(600)  # the first of them installs the router


@pytest.fixture(scope="session")
def program() -> Path:
    return required("sglang-router", SGLANG_ROUTER)


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a router in front of servers, with a policy and further flags, and waits until it knows them all."""
    with ExitStack() as stack:

        def make(servers: list[Served], policy: str, *flags: str) -> Router:
            workers = ("--worker-urls", *(server.url for server in servers))
            flags = (*workers, "--policy", policy, "--health-check-interval-secs", "1", *flags)
            made = stack.enter_context(routing(program, tmp_path / "router.log", *flags, command=("launch",)))
            until(lambda: healthy(made) == len(servers), made)
            return made

        yield make


def healthy(made: Router) -> int:
    """Workers that the router would send requests to."""
    found = httpx.get(f"{made.url}/workers", timeout=30)
    return sum(worker["is_healthy"] for worker in found.json()["workers"]) if found.status_code == 200 else 0


def test_it_learns_of_servers_what_they_are(serve: Serve, start: Start) -> None:
    """From /server_info and /model_info: the model's name, which it answers to clients."""
    server = serve(*QUICK)
    made = start([server], "round_robin")
    [model] = httpx.get(f"{made.url}/v1/models").json()["data"]
    assert model["id"] == "m"
    [worker] = httpx.get(f"{made.url}/workers").json()["workers"]
    assert worker["model_id"] == "m"


def test_round_robin(serve: Serve, start: Start) -> None:
    """Chats, completions and SGLang's own requests, whole and streamed, each server in its turn."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "round_robin")
    before = [answered(server) for server in servers]
    for body in ({}, {"stream": True}):
        for path, asked in (
            ("/v1/chat/completions", CHAT),
            ("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 2}),
            ("/generate", {"text": "hello", "sampling_params": {"max_new_tokens": 2}}),
        ):
            for _ in range(2):
                answer = made.post(path, **(asked | body))
                assert answer.status_code == 200, answer.text
                assert answer.text.endswith("data: [DONE]\n\n") == bool(body)
    assert [answered(server) - count for server, count in zip(servers, before, strict=True)] == [6, 6]


def test_cache_aware(serve: Serve, start: Start) -> None:
    """One conversation stays on its server, where its beginning is cached; another one can go elsewhere."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "cache_aware")
    text = "the quick brown fox jumps over the lazy dog " * 20
    for number in range(6):
        answer = made.post("/generate", text=f"{text}{number}", sampling_params={"max_new_tokens": 1})
        assert answer.status_code == 200, answer.text
    cached = answer.json()["meta_info"]["cached_tokens"]
    assert cached > 100
    assert sorted(answered(server) for server in servers) == [0, 6]


def test_a_server_that_is_unhealthy_gets_nothing_until_it_is_well(serve: Serve, start: Start) -> None:
    """A failure of /health, injected and taken away again."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "round_robin", "--health-failure-threshold", "1", "--health-success-threshold", "1")
    sick, well = servers
    inject(sick, {"type": "HTTPError", "status": 500, "match": {"endpoints": ["Health"]}})
    until(lambda: healthy(made) == 1, made)
    before = answered(sick), answered(well)
    for _ in range(4):
        assert made.post("/v1/chat/completions", **CHAT).status_code == 200
    assert (answered(sick) - before[0], answered(well) - before[1]) == (0, 4)
    inject(sick)
    until(lambda: healthy(made) == 2, made)


def test_the_circuit_of_a_server_that_fails_opens_and_closes(serve: Serve, start: Start) -> None:
    """Requests that fail with 500 are tried elsewhere, and after a few the server is left alone for a while."""
    servers = [serve(*QUICK) for _ in range(2)]
    breaking = ["--cb-failure-threshold", "2", "--cb-success-threshold", "1", "--cb-timeout-duration-secs", "3"]
    made = start(servers, "round_robin", *breaking)
    broken = servers[0]
    inject(broken, {"type": "ServerError"})
    failed = answered(broken)
    for _ in range(8):
        assert made.post("/v1/chat/completions", **CHAT).status_code == 200
    opened = made.value("smg_worker_cb_transitions_total", worker=broken.url, to="open")
    assert opened >= 1
    assert answered(broken) - failed < 8
    inject(broken)
    before = answered(broken)

    def used_again() -> bool:
        assert made.post("/v1/chat/completions", **CHAT).status_code == 200
        return answered(broken) > before

    until(used_again, made)
