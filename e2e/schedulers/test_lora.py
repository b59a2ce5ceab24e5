"""Adapter affinity: by `lora_requests_info` of servers with adapters, and of one without any."""

from __future__ import annotations

import re

import httpx

from e2e.conftest import until
from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import MODEL, Lab, scoring


def ask(model: str) -> dict[str, object]:
    return {"model": model, "prompt": "hello", "max_tokens": 1000}


def running(url: str) -> set[str]:
    """The adapters that a server says it runs, in the series with the newest time."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
    series = re.findall(r'^vllm:lora_requests_info{.*running_lora_adapters="(.*?)".*} (\S+)$', text, re.MULTILINE)
    return set(max(series, key=lambda found: float(found[1]))[0].split(",")) if series else set()


def test_requests_go_where_their_adapter_runs_and_new_adapters_where_there_is_room(lab: Lab) -> None:
    """Two adapters fill one server; its neighbour has room for the third; the server without adapters gets none."""
    full, free, _ = lab.pods()
    with lab.picker("lora", scoring(lora_affinity_scorer=1)) as picker:
        # Like vLLM, a server tells nothing of adapters before its first step.
        body = ask(MODEL) | {"max_tokens": 1}
        httpx.post(f"{free.url}/v1/completions", json=body, timeout=60, trust_env=False).raise_for_status()
        url = full.url
        with Busy((url, ask("adapter-a")), (url, ask("adapter-b"))):
            until("both adapters run", lambda: running(url) == {"adapter-a", "adapter-b"})
            picker.until("average_running_requests", 2 / 3)
            for model in ("adapter-a", "adapter-b"):
                assert picker.spread(ask(model), 20) == {full.endpoint: 20}
            assert picker.spread(ask("adapter-c"), 20) == {free.endpoint: 20}


def test_a_server_that_tells_nothing_of_adapters_is_picked_all_the_same(lab: Lab) -> None:
    """By the other signals: a missing family of metrics keeps nobody out."""
    with lab.picker("queue-too", scoring(queue_scorer=1)) as picker:
        assert set(picker.spread({"model": MODEL, "prompt": "hello"}, 60)) == {pod.endpoint for pod in lab.pods()}
