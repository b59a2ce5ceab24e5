"""Data-parallel ranks of a real server process: where requests go, and what scrapers and subscribers see of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import openai
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families
from tests.served import Serve, Served, free_ports

SIZE = 3
WAIT_MS = 20_000
TIMES = ["--time-to-first-token", "50ms", "--inter-token-latency", "5ms"]

Socket = zmq.Socket[bytes]


class Fleet:
    """A server of some ranks, with a subscriber for the events of each."""

    def __init__(self, serve: Serve, context: zmq.Context[Socket], *flags: str) -> None:
        self.events, self.replays = free_ports(SIZE), free_ports(SIZE)
        self.subscribers: list[Socket] = []
        for rank in range(SIZE):
            subscriber = context.socket(zmq.SUB)
            subscriber.setsockopt(zmq.RECONNECT_IVL, 10)
            subscriber.subscribe(b"")
            subscriber.connect(f"tcp://127.0.0.1:{self.events + rank}")
            self.subscribers.append(subscriber)
        settings = {
            "enable_kv_cache_events": True,
            "endpoint": f"tcp://*:{self.events}",
            "replay_endpoint": f"tcp://*:{self.replays}",
            "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)",
        }
        self.served: Served = serve(
            *("--kv-events-config", json.dumps(settings), "--data-parallel-size", str(SIZE), *TIMES, *flags)
        )

    def port(self, _rank: int) -> int:
        """The port behind which a rank is found."""
        return self.served.port

    def complete(self, rank: int, prompt: list[int]) -> httpx.Response:
        """A request that names its rank."""
        body = {"prompt": prompt, "max_tokens": 1, "ignore_eos": True}
        url = f"http://127.0.0.1:{self.port(rank)}/v1/completions"
        return httpx.post(url, json=body, headers=self.headers(rank), timeout=30)

    def headers(self, rank: int) -> dict[str, str]:
        return {"X-data-parallel-rank": str(rank)}

    def heard(self, rank: int) -> tuple[str, int, list[Any]]:
        """Topic, number and content of the next batch of a rank."""
        assert self.subscribers[rank].poll(WAIT_MS), f"no batch of rank {rank} came"
        topic, number, payload = self.subscribers[rank].recv_multipart()
        return topic.decode(), int.from_bytes(number, "big"), msgspec.msgpack.decode(payload)

    def series(self, rank: int, name: str, **labels: str) -> dict[str, float]:
        """Values by engine, in the order of the exposition behind the port of a rank."""
        text = httpx.get(f"http://127.0.0.1:{self.port(rank)}/metrics", timeout=30).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {
            sample.labels["engine"]: sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }


class Spread(Fleet):
    """The same with a port for each rank."""

    def __init__(self, serve: Serve, context: zmq.Context[Socket]) -> None:
        self.first = free_ports(SIZE)
        super().__init__(serve, context, "--port", str(self.first), "--data-parallel-multi-port-external-lb")

    def port(self, rank: int) -> int:
        return self.first + rank

    def headers(self, rank: int) -> dict[str, str]:  # noqa: ARG002 - the port says it
        return {}


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[Socket]]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture(scope="module", params=[Fleet, Spread], ids=["one port", "a port per rank"])
def fleet(request: pytest.FixtureRequest, serve: Serve, context: zmq.Context[Socket]) -> Fleet:
    made: Fleet = request.param(serve, context)
    for rank in range(SIZE):
        assert made.complete(rank, [9] * 16).status_code == 200
        assert made.heard(rank)[1] == 0, "the subscription came too late"
    return made


@pytest.fixture(scope="module")
def together(serve: Serve, context: zmq.Context[Socket]) -> Fleet:
    return Fleet(serve, context)


# --- both ways of serving ------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(SIZE))
def test_events_come_from_the_rank_that_was_asked(fleet: Fleet, rank: int) -> None:
    """On its port, with its number in the batch and sequence numbers of its own; the others say nothing."""
    assert fleet.complete(rank, list(range(rank * 100, rank * 100 + 32))).status_code == 200
    topic, number, (_, events, told) = fleet.heard(rank)
    assert (number, told) == (1, rank)
    assert topic == f"kv@127.0.0.1:{fleet.port(rank)}@m"
    assert events[0]["token_ids"] == list(range(rank * 100, rank * 100 + 32))
    assert not any(subscriber.poll(0) for subscriber in fleet.subscribers)


def test_equal_content_has_equal_hashes_in_all_ranks(fleet: Fleet) -> None:
    """A hash names content, so an index of several ranks is one index."""
    hashes = []
    for rank in range(SIZE):
        fleet.complete(rank, list(range(600, 616)))
        hashes.append(fleet.heard(rank)[2][1][0]["block_hashes"])
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("rank", range(SIZE))
def test_each_rank_sends_its_batches_again(fleet: Fleet, context: zmq.Context[Socket], rank: int) -> None:
    with context.socket(zmq.REQ) as socket:
        socket.connect(f"tcp://127.0.0.1:{fleet.replays + rank}")
        socket.send((0).to_bytes(8, "big"))
        assert socket.poll(WAIT_MS)
        _, number, payload = socket.recv_multipart()
        assert int.from_bytes(number, "big") == 0
        assert msgspec.msgpack.decode(payload)[2] == rank


def test_the_admin_state_tells_of_each_rank(fleet: Fleet) -> None:
    before = {rank["rank"]: rank["requests"]["length"] for rank in fleet.served.state()["ranks"]}
    assert list(before) == [0, 1, 2]
    fleet.complete(1, [4] * 40)
    fleet.heard(1)
    state = fleet.served.state()
    after = {rank["rank"]: rank["requests"]["length"] for rank in state["ranks"]}
    assert after == {**before, 1: before[1] + 1}
    assert state["requests"]["length"] == sum(after.values())
    endpoints = [rank["kvEvents"]["endpoint"] for rank in state["ranks"]]
    assert endpoints == [f"tcp://127.0.0.1:{fleet.events + rank}" for rank in range(SIZE)]


# --- one port ------------------------------------------------------------------------------------


def test_one_port_shows_all_engines_in_order(together: Fleet) -> None:
    """As in vLLM a scraper that takes the first series of a family sees engine 0 alone."""
    for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:cache_config_info"):
        assert list(together.series(0, name)) == ["0", "1", "2"]
    sources = httpx.get(f"{together.served.url}/kv_event_sources").json()
    assert {rank: source["endpoint"] for rank, source in sources.items()} == {
        str(rank): f"tcp://*:{together.events + rank}" for rank in range(SIZE)
    }


def test_the_server_spreads_what_names_no_rank(together: Fleet) -> None:
    """Streams of the openai SDK, long enough for all to be under way at once: no rank has more than its share."""
    before = together.series(0, "vllm:request_success_total", finished_reason="length")
    with openai.OpenAI(base_url=f"{together.served.url}/v1", api_key="none") as client:
        streams = [
            client.completions.create(
                model="m", prompt=f"Number {number}", max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
            )
            for number in range(2 * SIZE)
        ]
        for stream in streams:
            assert sum(len(chunk.choices) for chunk in stream) > 0
    after = together.series(0, "vllm:request_success_total", finished_reason="length")
    assert {rank: after[rank] - before[rank] for rank in after} == {"0": 2, "1": 2, "2": 2}
    told = httpx.get(f"{together.served.admin_url}/admin/requests?limit={2 * SIZE}").json()["requests"]
    assert Counter(request["rank"] for request in told) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize("given", ["3", "-1", "99999999999999999999"])
def test_a_rank_that_is_not_there_is_refused_in_vllms_words(together: Fleet, given: str) -> None:
    """Whole answers with a status; a stream has begun by then."""
    message = f"data_parallel_rank {given} is out of range [0, 3)."
    with openai.OpenAI(base_url=f"{together.served.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "m", "prompt": "x", "extra_headers": {"X-data-parallel-rank": given}}
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**asked)
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["message"] == message
        with pytest.raises(openai.APIError, match=r"out of range \[0, 3\)"):
            list(client.completions.create(**asked, stream=True))


def test_what_is_no_number_names_no_rank(together: Fleet) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    headers = {"X-data-parallel-rank": "first"}
    assert httpx.post(f"{together.served.url}/v1/completions", json=body, headers=headers).status_code == 200


# --- a port per rank -----------------------------------------------------------------------------


def test_a_port_shows_its_engine_alone(serve: Serve, context: zmq.Context[Socket]) -> None:
    """Schedulers scrape the port that they route to, and take the first series that they find."""
    spread = Spread(serve, context)
    for rank in range(SIZE):
        assert list(spread.series(rank, "vllm:num_requests_waiting")) == [str(rank)]
        listed = httpx.get(f"http://127.0.0.1:{spread.port(rank)}/kv_event_sources").json()
        assert listed[str(rank)]["endpoint"] == f"tcp://*:{spread.events + rank}"
    assert httpx.get(f"http://127.0.0.1:{spread.port(1)}/health").status_code == 200
