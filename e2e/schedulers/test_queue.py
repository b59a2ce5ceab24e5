"""Queue-aware decisions: a server with a queue gets nothing while others have none."""

from __future__ import annotations

from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import MODEL, SLOTS, Lab, scoring, until_gauge

ASK = {"model": MODEL, "prompt": "hello"}


def test_a_server_with_a_queue_is_avoided_until_it_has_none(lab: Lab) -> None:
    """Five requests wait on one of three: twenty decisions go to the others. When they are gone it gets its share."""
    slow, *others = lab.pods()
    with lab.picker("queue", scoring(queue_scorer=1)) as picker:
        with Busy(*[(slow.url, ASK | {"max_tokens": 1000})] * (SLOTS + 5)):
            until_gauge(slow.url, "vllm:num_requests_waiting", 5)
            picker.until("average_queue_size", 5 / 3)
            picked = picker.spread(ASK, 20)
            assert set(picked) <= {pod.endpoint for pod in others}, picked
        picker.until("average_queue_size", 0)
        picked = picker.spread(ASK, 60)
        assert set(picked) == {pod.endpoint for pod in lab.pods()}, picked
