"""Queue, KV cache, running requests: what the picker makes of `/metrics`, exactly, and where requests go by it."""

from __future__ import annotations

from functools import partial

import pytest

from e2e.conftest import until
from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import gauge
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import ASK, LONG, by_replica, endpoint, endpoints, objects, send
from ghostfleet_operator.testing.plugin import StartFleet


def test_a_queue_is_a_score(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The server with a queue has none left and gets nothing; when the queue is gone it gets its share again."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3, "scheduling": {"maxNumSeqs": 1}}))
    picker = start(fleet.endpoints_file, "queue-scorer")
    with Busy(*[(fleet.urls["alpha-1"], LONG)] * 6):
        until(
            "the queue is known",
            lambda: by_replica(fleet, picker.scores(ASK)) == {"alpha-0": 1, "alpha-1": 0, "alpha-2": 1},
        )
        assert endpoint(fleet, "alpha-1") not in picker.spread(ASK, 20)
        # Where it went, and what it found there.
        served = fleet.where(send(picker.ask(ASK).endpoint, ASK)["id"])
        assert served.replica != "alpha-1"
        assert served.found_waiting == 0
    until("all are picked again", lambda: set(picker.spread(ASK, 60)) == endpoints(fleet))


def test_the_share_of_the_cache_that_is_free_is_a_score(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """One of two caches of 128 blocks is filled to nine tenths by a long sequence; the scores say how much is left."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 2, "kvCache": {"blocks": 129}}))
    picker = start(fleet.endpoints_file, "kv-cache-utilization-scorer")
    prompt = [100 + position % 300 for position in range(1800)]
    with Busy((fleet.urls["alpha-1"], {**ASK, "prompt": prompt, "max_tokens": 240})):

        def score_is_what_is_free() -> bool:
            usage = gauge(fleet.urls["alpha-1"], "vllm:kv_cache_usage_perc")
            found = by_replica(fleet, picker.scores(ASK))
            # A block more or less: the answer takes one more every 1.6 s.
            wanted = {"alpha-0": 1, "alpha-1": pytest.approx(1 - (usage or 0), abs=1.1 / 128)}
            return usage is not None and usage > 0.85 and found == wanted

        until("the score is what is free", score_is_what_is_free)
        assert picker.spread(ASK, 20) == {endpoint(fleet, "alpha-0"): 20}


def test_running_requests_are_a_score(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Three on one server, one on another, none on the third."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3}))
    picker = start(fleet.endpoints_file, "running-requests-size-scorer")
    with Busy(*[(fleet.urls["alpha-0"], LONG)] * 3, (fleet.urls["alpha-1"], LONG)):
        wanted = pytest.approx({"alpha-0": 0, "alpha-1": 2 / 3, "alpha-2": 1}, abs=0.001)
        until("all are known", lambda: by_replica(fleet, picker.scores(ASK)) == wanted)
        assert picker.spread(ASK, 20) == {endpoint(fleet, "alpha-2"): 20}


DIALECTS = {"vllm": "VLLM", "sglang": "SGLang", "trtllm": "TensorRTLLM", "backend": "TritonTensorRTLLM"}


def test_servers_of_several_engines_are_compared(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Each is read by its own metrics' names, by the label of its engine: a queue is a queue whoever has it."""
    spec = {"scheduling": {"maxNumSeqs": 1}, "kvCache": {"blocks": 129}}
    fleet = ghostfleet_fleet(objects(**{name: spec | {"engine": {"dialect": one}} for name, one in DIALECTS.items()}))
    picker = start(fleet.endpoints_file, "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer")

    def is_loaded(name: str) -> bool:
        # No score by queue or running requests is left, and the cache is a quarter full at first.
        return 0.3 < by_replica(fleet, picker.scores(ASK))[f"{name}-0"] < 0.8

    until("all are alike", lambda: set(picker.scores(ASK).values()) == {3})
    for name in DIALECTS:
        with Busy(*[(fleet.urls[f"{name}-0"], LONG | {"prompt": [5] * 500})] * 3):
            until(f"the load of {name} is known", partial(is_loaded, name))
            assert endpoint(fleet, f"{name}-0") not in picker.spread(ASK, 20)
        until("all are alike again", lambda: set(picker.scores(ASK).values()) == {3})


def test_a_server_that_does_not_tell_of_its_cache_is_scheduled_by_its_queue(
    ghostfleet_fleet: StartFleet, start: Start
) -> None:
    """Triton has neither adapters nor a cache to tell of; the picker misses nothing."""
    slots = {"scheduling": {"maxNumSeqs": 1}}
    fleet = ghostfleet_fleet(objects(alpha=slots, triton=slots | {"engine": {"dialect": "Triton"}}))
    picker = start(fleet.endpoints_file, "queue-scorer", "lora-affinity-scorer")
    until("both are picked", lambda: set(picker.spread(ASK, 40)) == endpoints(fleet))
    with Busy(*[(fleet.urls["triton-0"], LONG)] * 4):
        until("its queue is known", lambda: picker.spread(ASK, 20) == {endpoint(fleet, "alpha-0"): 20})
    for trouble in ("poll", "extract"):
        assert picker.value(f"datalayer_{trouble}_errors_total") == 0


def test_a_server_with_the_label_of_another_engine_is_told_by_errors(
    ghostfleet_fleet: StartFleet, start: Start
) -> None:
    """What is not there counts as an error and for 0; the server is picked all the same, whatever its queue."""
    slots = {"scheduling": {"maxNumSeqs": 1}}
    odd = slots | {"engine": {"dialect": "SGLang"}, "pod": {"labels": {"llm-d.ai/engine-type": "vllm"}}}
    fleet = ghostfleet_fleet(objects(alpha=slots))
    picker = start(fleet.endpoints_file, "queue-scorer")
    until("all is read", lambda: picker.scores(ASK))
    assert picker.value("datalayer_extract_errors_total") == 0
    fleet.apply(objects(alpha=slots, odd=odd))
    until("errors are counted", lambda: picker.value("datalayer_extract_errors_total") > 0)
    assert picker.value("datalayer_poll_errors_total") == 0
    with Busy(*[(url, LONG) for url in fleet.urls.values() for _ in range(4)]):
        until("one queue is known", lambda: by_replica(fleet, picker.scores(ASK)) == {"alpha-0": 0, "odd-0": 1})
