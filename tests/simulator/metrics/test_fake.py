"""Fake metrics: what is told to be shown is shown, everything else stays true, and the truth comes back."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import InvalidInput, validated
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.server import SimulatedServer


class Wall:
    """A clock that stands where it is put."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def metrics(wall: Wall) -> ServerMetrics:
    return ServerMetrics(validated(ServerConfig, {"model": {"name": "m"}}), now=wall, with_created=False)


def shown(metrics: ServerMetrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


@pytest.mark.parametrize(
    ("course", "values"),
    [
        ("oscillate:0:10:8s", [5, 8, 10, 8, 5, 1, 0, 1, 5]),
        ("ramp:0:8:8s", [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]),
        ("rampreset:8:0:4s", [8, 6, 4, 2, 8, 6]),
        ("squarewave:1:9:4s", [1, 1, 9, 9, 1, 1, 9]),
        ("42", [42, 42]),
        ("1.5e1", [15]),
    ],
)
def test_values_follow_their_course(metrics: ServerMetrics, wall: Wall, course: str, values: list[int]) -> None:
    """Second by second, and requests are whole."""
    metrics.fake({"vllm:num_requests_running": course})
    told = []
    for _ in values:
        told.append(shown(metrics, "vllm:num_requests_running"))
        wall.seconds += 1
    assert told == values


def test_a_share_is_not_rounded(metrics: ServerMetrics, wall: Wall) -> None:
    metrics.fake({"vllm:kv_cache_usage_perc": "ramp:0:1:4s"})
    wall.seconds += 1
    assert shown(metrics, "vllm:kv_cache_usage_perc") == 0.25


def test_counts_of_buckets_are_observations_at_their_upper_bounds(metrics: ServerMetrics) -> None:
    """The last one, above all bounds, is a second above the last of them, as in llm-d-inference-sim."""
    counts = [0] * 22 + [1]
    counts[1] = 2
    metrics.fake({"vllm:time_to_first_token_seconds": str(counts), "vllm:request_prompt_tokens": "[3]"})
    assert shown(metrics, "vllm:time_to_first_token_seconds_bucket", le="0.005") == 2
    assert shown(metrics, "vllm:time_to_first_token_seconds_count") == 3
    assert shown(metrics, "vllm:time_to_first_token_seconds_sum") == pytest.approx(2 * 0.005 + 2561)
    assert shown(metrics, "vllm:request_prompt_tokens_sum") == 3


def test_the_truth_goes_on_behind_it_and_comes_back(metrics: ServerMetrics) -> None:
    """What reads the real cells is not misled, and what was counted meanwhile is not lost."""
    success = 'vllm:request_success_total{finished_reason="stop"}'
    metrics.fake({success: "100", "vllm:num_requests_running": "9"})
    metrics.engines[0].measures.finished["stop"].value += 2
    metrics.engines[0].measures.running.value = 1
    assert shown(metrics, "vllm:request_success_total", finished_reason="stop") == 100
    assert shown(metrics, "vllm:num_requests_running") == 9
    assert metrics.totals()["stop"] == 2
    metrics.fake({})
    assert shown(metrics, "vllm:request_success_total", finished_reason="stop") == 2
    assert shown(metrics, "vllm:num_requests_running") == 1


def test_adapters_can_be_made_up_on_a_server_that_has_none(metrics: ServerMetrics) -> None:
    """For a scheduler that prefers servers on which an adapter runs; without the fake there is no such metric."""
    name = "vllm:lora_requests_info"
    assert name not in metrics.render().decode()
    labels = {"max_lora": "2", "running_lora_adapters": "sql,chat", "waiting_lora_adapters": ""}
    spelt = ",".join(f'{label}="{value}"' for label, value in labels.items())
    metrics.fake({f"{name}{{{spelt}}}": "1790470234"})
    assert shown(metrics, name, **labels) == 1790470234
    metrics.fake({})
    assert shown(metrics, name) is None


def test_a_course_goes_on_where_it_is_when_another_one_changes(metrics: ServerMetrics, wall: Wall) -> None:
    """A change of the configuration does not begin it anew, unless it is a change of that course."""
    metrics.fake({"vllm:num_requests_waiting": "ramp:0:100:100s"})
    wall.seconds += 10
    metrics.fake({"vllm:num_requests_waiting": "ramp:0:100:100s", "vllm:num_requests_running": "3"})
    assert shown(metrics, "vllm:num_requests_waiting") == 10
    metrics.fake({"vllm:num_requests_waiting": "ramp:0:50:100s"})
    assert shown(metrics, "vllm:num_requests_waiting") == 0


def test_a_series_is_faked_once_and_its_order_kept(metrics: ServerMetrics) -> None:
    before = metrics.render().decode().splitlines()
    metrics.fake({"vllm:num_requests_running": "3"})
    changed = [line for line in metrics.render().decode().splitlines() if line.startswith("vllm:")]
    was = [line for line in before if line.startswith("vllm:")]
    assert [line.rpartition(" ")[0] for line in changed] == [line.rpartition(" ")[0] for line in was]


@pytest.mark.parametrize(
    ("fakes", "path", "message"),
    [
        ({"vllm:num_request_running": "1"}, "vllm:num_request_running", "did you mean vllm:num_requests_running?"),
        ({"vllm:request_success_total": "1"}, "vllm:request_success_total", 'labels are {finished_reason="..."}'),
        ({'vllm:num_requests_running{a="b"}': "1"}, "vllm:num_requests_running", "no labels of its own"),
        ({"vllm:num_requests_running": "[1]"}, "vllm:num_requests_running", "gauge: give a number or a course"),
        ({"vllm:request_prompt_tokens": "1"}, "vllm:request_prompt_tokens", "histogram: give the counts"),
        ({"vllm:time_to_first_token_seconds": str([0] * 24)}, "vllm:time_to_first", "has 23 buckets, not 24"),
    ],
)
def test_what_cannot_be_faked_is_told(fakes: dict[str, str], path: str, message: str) -> None:
    """By the field's path; a running server keeps what it has, and a custom resource is refused alike."""
    server = SimulatedServer(validated(ServerConfig, {"model": {"name": "m"}}), clock=VirtualClock())
    with pytest.raises(InvalidInput) as caught:
        server.offer(Document.of(validated(ServerConfig, {"model": {"name": "m"}, "fakeMetrics": fakes}), 2))
    (problem,) = caught.value.problems
    assert problem.path.startswith(f"fakeMetrics[{path}")
    assert message in problem.message
    assert server.in_force.revision == 0


@pytest.mark.parametrize(
    ("fakes", "message"),
    [
        ({"vllm:num_requests_running": "many"}, "pattern"),
        ({"vllm:num_requests_running": "ramp:1:2:0s"}, "above 0"),
        ({"vllm:num_requests_running": "sawtooth:1:2:3s"}, "oscillate|ramp|rampreset|squarewave"),
        ({"num_requests": "1"}, "begins with vllm: or sglang:"),
        ({'vllm:a{x="1",y="2"}': "1", 'vllm:a{y="2",x="1"}': "2"}, "same series"),
        ({f"vllm:a{index}": "1" for index in range(65)}, "at most 64"),
    ],
)
def test_what_cannot_be_read_is_told(fakes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match="fakeMetrics") as caught:
        validated(ServerConfig, {"model": {"name": "m"}, "fakeMetrics": fakes})
    assert message in str(caught.value)


def test_a_fake_is_of_every_rank_or_of_the_one_that_it_names() -> None:
    """`engine` may be named; a rank that another server has means nothing here, one that nobody has is refused."""
    name = "vllm:num_requests_waiting"
    raw = {"model": {"name": "m"}, "dataParallelSize": 3, "localRanks": {"startRank": 1, "size": 2}}
    metrics = ServerMetrics(validated(ServerConfig, raw), with_created=False)

    def waiting() -> list[float | None]:
        return [shown(metrics, name, engine=engine) for engine in ("0", "1", "2")]

    metrics.fake({name: "7"})
    assert waiting() == [None, 7, 7]
    metrics.fake({f'{name}{{engine="2"}}': "5", 'vllm:num_requests_running{engine="0"}': "1"})
    assert waiting() == [None, 0, 5]
    with pytest.raises(InvalidInput, match=r"engine is not '3' here but '1' or '2'"):
        metrics.fake({f'{name}{{engine="3"}}': "5"})
    with pytest.raises(InvalidInput, match=f"{name} means the same series"):
        metrics.fake({name: "7", f'{name}{{engine="2"}}': "5"})
    assert waiting() == [None, 0, 5]
