"""A server that is made ten times slower while it runs is picked less, by what its metrics tell, and then as before."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import httpx
import pytest

from e2e.conftest import until
from e2e.load import Load
from e2e.schedulers.lab import MODEL, Lab, RunningPicker, scoring

CLIENTS, SECONDS = 8, 10
ASK = {"model": MODEL, "prompt": "hello", "max_tokens": 5, "ignore_eos": True}
SHARED = 40
"""Decisions that a share is taken of."""


class Clients:
    """What clients do: ask the picker, and send each request where it says. Remembers what it said."""

    def __init__(self, lab: Lab, picker: RunningPicker, client: httpx.Client) -> None:
        self._urls = {pod.endpoint: pod.url for pod in lab.pods()}
        self._picker = picker
        self._client = client
        self._asking = threading.Lock()
        self._picked: deque[tuple[float, str]] = deque(maxlen=SHARED)

    def send(self) -> str:
        """One request; the status of the answer."""
        with self._asking:
            where = str(self._picker.ask(ASK).endpoint)
            self._picked.append((time.monotonic(), where))
        return str(self._client.post(f"{self._urls[where]}/v1/completions", json=ASK).status_code)

    def has_share(self, endpoint: str, low: float, high: float, since: float) -> bool:
        """Whether an endpoint has a share from `low` to below `high` of the last decisions, all made after a time."""
        last = list(self._picked)
        if len(last) < SHARED or last[0][0] < since:
            return False
        return low <= sum(where == endpoint for _, where in last) / SHARED < high


def slower(lab: Lab, factor: int) -> float:
    """Give beta other times; when they are in force."""
    simple = {"timeToFirstToken": f"{50 * factor}ms", "interTokenLatency": f"{100 * factor}ms"}
    lab.change("beta", profile={"simple": simple})
    return time.monotonic()


def test_a_server_that_turns_slow_loses_its_share_within_seconds_and_gets_it_back(
    lab: Lab, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a third of the requests to less than a fifth, without a restart and with no request lost."""
    before = lab.pods()
    beta = before[-1]
    config = scoring(queue_scorer=1, running_requests_size_scorer=1)
    with lab.picker("hot-reload", config) as picker, httpx.Client(timeout=60, trust_env=False) as client:
        clients = Clients(lab, picker, client)
        with Load(CLIENTS, clients.send) as load:
            start = time.monotonic()
            until("it has its share", lambda: clients.has_share(beta.endpoint, 0.2, 1, start), 120)
            patched = time.monotonic()
            slow = slower(lab, 10)
            until("it has lost it", lambda: clients.has_share(beta.endpoint, 0, 0.2, patched), 120)
            lost = time.monotonic()
            fast = slower(lab, 1)
            until("it has it again", lambda: clients.has_share(beta.endpoint, 0.2, 1, fast), 120)
            back = time.monotonic()
    told = {"patch_to_synced": slow - patched, "synced_to_share_lost": lost - slow, "synced_to_share_back": back - fast}
    for name, seconds in told.items():
        record_property(f"{name}_seconds", round(seconds, 3))
    with capsys.disabled():
        print("\nhot reload: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in told.items()))
    assert lost - slow < SECONDS
    assert set(load.endings) == {"200"}, load.endings
    assert lab.pods() == before
