"""vllm-router 0.1.17, unmodified, in front of servers: every policy that tells them apart, health and circuits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.schedulers.routers import VLLM_ROUTER, Router, answered, inject, required, routing, until
from tests.served import Serve, Served, free_port

QUICK = ("--time-to-first-token", "1ms", "--inter-token-latency", "1ms", "--enable-prompt-tokens-details")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
LONG = {"max_tokens": 30_000, "ignore_eos": True, "stream": True}
BLOCK = 16

Start = Callable[..., Router]

pytestmark = pytest.mark.timeout(600)  # the first of them may install the router


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a router in front of servers, with a policy and further flags."""
    with ExitStack() as stack:

        def make(servers: list[Served], policy: str, *flags: str) -> Router:
            workers = ("--worker-urls", *(server.url for server in servers))
            intervals = ("--worker-startup-check-interval", "1", "--health-check-interval-secs", "1")
            command = (*workers, "--policy", policy, *intervals, *flags)
            return stack.enter_context(routing(required("vllm-router", VLLM_ROUTER), tmp_path / "router.log", *command))

        yield make


@contextmanager
def under_way(made: Router, path: str, **body: Any) -> Iterator[None]:
    """A request that the router has sent on and that does not end by itself."""
    with httpx.stream("POST", f"{made.url}{path}", json={"model": "m"} | LONG | body, timeout=60) as answer:
        lines = answer.iter_lines()  # once it is closed, so is the answer
        next(lines)
        yield


def chat(made: Router, **body: Any) -> Any:
    answer = made.post("/v1/chat/completions", **(CHAT | body))
    assert answer.status_code == 200, answer.text
    return answer.json()


def counted(servers: list[Served], before: list[int] | None = None) -> list[int]:
    """Requests that each has answered, since `before` if given."""
    return [answered(server) - at for server, at in zip(servers, before or [0] * len(servers), strict=True)]


def test_round_robin(serve: Serve, start: Start) -> None:
    """Chats and completions, whole and streamed, each server in its turn."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "round_robin")
    before = counted(servers)
    for body in ({}, {"stream": True}):
        for path, asked in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "hello", "max_tokens": 2})):
            for _ in range(4):
                answer = made.post(path, **(asked | body))
                assert answer.status_code == 200, answer.text
                assert answer.text.endswith("data: [DONE]\n\n") == bool(body)
    assert counted(servers, before) == [8, 8]
    assert [model["id"] for model in httpx.get(f"{made.url}/v1/models").json()["data"]] == ["m"]


def test_cache_aware(serve: Serve, start: Start) -> None:
    """Every turn of a conversation goes where the turns before are cached; another conversation is on the other server.

    The second one begins while the first one's server is busy, which with these thresholds is a reason to go elsewhere.
    """
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "cache_aware", "--balance-abs-threshold", "0", "--balance-rel-threshold", "1.0")
    begun = [[{"role": "user", "content": f"{word} " * 60}] for word in ("alpha", "omega")]
    with under_way(made, "/v1/chat/completions", messages=begun[0]):
        busy = [server.state()["running"] for server in servers].index(1)
        chat(made, messages=begun[1])
    before = counted(servers)
    assert before[1 - busy] == 1
    for turn in range(3):
        for conversation in begun:
            conversation += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {turn}?"}]
            usage = chat(made, messages=conversation)["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] // 2
    assert counted(servers, before) == [3, 3]


def test_power_of_two(serve: Serve, start: Start) -> None:
    """The server that has a request of the router's gets no other one while there is a free one."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "power_of_two")
    before = counted(servers)
    with under_way(made, "/v1/completions", prompt="hello"):
        busy = [server.state()["running"] for server in servers].index(1)
        for _ in range(10):
            chat(made)
        taken = counted(servers, before)
    assert (taken[busy], taken[1 - busy]) == (0, 10)


def test_a_server_that_is_unhealthy_gets_nothing_until_it_is_well(serve: Serve, start: Start) -> None:
    """A failure of /health, injected and taken away again."""
    servers = [serve(*QUICK) for _ in range(2)]
    made = start(servers, "round_robin", "--health-failure-threshold", "1", "--health-success-threshold", "1")
    sick = servers[0]
    inject(sick, {"type": "HTTPError", "status": 500, "match": {"endpoints": ["Health"]}})
    until(lambda: made.value("vllm_router_worker_health", worker=sick.url) == 0, made)
    before = counted(servers)
    for _ in range(4):
        chat(made)
    assert counted(servers, before) == [0, 4]
    inject(sick)
    until(lambda: made.value("vllm_router_worker_health", worker=sick.url) == 1, made)
    for _ in range(4):
        chat(made)
    assert counted(servers, before) == [2, 6]


@pytest.mark.parametrize(
    "failure", [{"type": "ServerError"}, {"type": "Reset", "afterTokens": 0}], ids=["500", "reset"]
)
def test_the_circuit_of_a_server_that_fails_opens_and_closes(
    serve: Serve, start: Start, failure: dict[str, Any]
) -> None:
    """Clients see none of it: what fails is tried elsewhere, and after two failures the server is left alone."""
    servers = [serve(*QUICK) for _ in range(2)]
    broken, well = servers
    breaking = ("--cb-failure-threshold", "2", "--cb-success-threshold", "1", "--cb-timeout-duration-secs", "2")
    made = start(servers, "round_robin", *breaking)
    inject(broken, failure)
    for _ in range(8):
        chat(made)
    assert made.value("vllm_router_cb_outcomes_total", worker=broken.url, outcome="failure") >= 2
    assert made.value("vllm_router_cb_state_transitions_total", worker=broken.url, to="open") >= 1
    assert made.value("vllm_router_cb_outcomes_total", worker=well.url, outcome="success") == 8
    inject(broken)
    before = answered(broken)

    def used_again() -> bool:
        chat(made)
        return answered(broken) > before

    until(used_again, made)
    assert made.value("vllm_router_cb_state", worker=broken.url) == 0


# --- by KV events ----------------------------------------------------------------------------------


class Publisher:
    """A server that tells of its blocks."""

    def __init__(self, serve: Serve, version: str, hashes: str) -> None:
        ports = free_port(), free_port()
        endpoint, replay = (f"tcp://*:{port}" for port in ports)
        config = {"enable_kv_cache_events": True, "endpoint": endpoint, "replay_endpoint": replay}
        flags = ("--vllm-version", version, "--kv-events-config", json.dumps(config))
        self.served = serve(*QUICK, *flags, environment={"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": hashes})
        here, again = (f"{self.served.url}=tcp://127.0.0.1:{port}" for port in ports)
        self.flags = ("--kv-event-source", here, "--kv-event-replay-source", again)
        self._fillers = 0

    def compute(self, conversation: list[dict[str, str]]) -> None:
        """Have it in the cache, past the router."""
        body = CHAT | {"model": "m", "messages": conversation}
        assert httpx.post(f"{self.served.url}/v1/chat/completions", json=body).status_code == 200

    def is_heard(self, made: Router) -> bool:
        """Whether the router has the newest batch; if it has not, it was too late for it, and there is a newer one."""
        newest = self.served.state()["kvEvents"]["sequence"] - 1
        if f"source={self.served.url} rank=0 seq={newest}\n" in COLOURS.sub("", made.log.read_text()):
            return True
        self._fillers += 1
        self.compute(told(f"filler {self._fillers}"))
        return False


COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def told(word: str) -> list[dict[str, str]]:
    """A conversation of several blocks, and all its own."""
    return [{"role": "user", "content": f"{word} " * 60}]


@pytest.mark.parametrize(("version", "hashes"), [("0.26", "1"), ("0.33", "0")])
def test_kv_aware(serve: Serve, start: Start, version: str, hashes: str) -> None:
    """A prompt goes where its blocks are, which the router knows from events alone: the servers were asked directly.

    Hashes as numbers and as bytes. What happened before the router came it has by replay.
    """
    publishers = [Publisher(serve, version, hashes) for _ in range(2)]
    before_it, after_it = (("alpha", 0), ("omega", 1)), (("sigma", 1), ("gamma", 0))
    for word, place in before_it:
        publishers[place].compute(told(word))
    sources = [flag for publisher in publishers for flag in publisher.flags]
    identity = ("--kv-event-model", "m", "--kv-event-block-size", str(BLOCK))
    servers = [publisher.served for publisher in publishers]
    made = start(servers, "kv_aware", *sources, *identity, "--log-level", "debug")
    until(lambda: all(publisher.is_heard(made) for publisher in publishers), made)
    for word, place in after_it:
        publishers[place].compute(told(word))
    until(lambda: all(publisher.is_heard(made) for publisher in publishers), made)
    for number, (word, place) in enumerate((*before_it, *after_it), start=1):
        before = counted(servers)
        cached = chat(made, messages=told(word))["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > 4 * BLOCK
        assert counted(servers, before)[place] == 1
        assert made.value("vllm_router_kv_placement_lookups_total", result="hit") == number
