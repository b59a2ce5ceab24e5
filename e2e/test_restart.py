"""Pods are replaced one after another while clients stream: nobody notices."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Self

import openai
import pytest

from .conftest import Kubectl, Object, until

SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "rolling"},
    "spec": {
        "model": {"name": "ghostfleet/rolling", "servedNames": ["rolling"]},
        "replicas": 2,
        "profile": {"simple": {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"}},
        "networking": {"serviceType": "NodePort"},
        "pod": {"terminationGracePeriodSeconds": 30},
    },
}
PODS = ("pods", "-l", "ghostfleet.dev/server=rolling")
CLIENTS, TOKENS = 4, 100


class Load:
    """Clients that stream one answer of 2.1 s after the other, each over a connection of its own."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._stop = threading.Event()
        self.endings: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.endings[self._stream()] += 1
            except openai.OpenAIError as error:
                self.endings[f"{type(error).__name__}: {error}"] += 1

    def _stream(self) -> str:
        with openai.OpenAI(base_url=self._base_url, api_key="none", max_retries=0, timeout=30) as client:
            tokens, reason = 0, ""
            for chunk in client.completions.create(
                model="rolling",
                prompt="hello",
                max_tokens=TOKENS,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            ):
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                reason = chunk.choices[0].finish_reason or reason if chunk.choices else reason
        return f"{reason} after {tokens} tokens"


@pytest.fixture
def base_url(kubectl: Kubectl) -> Iterator[str]:
    """The node port of a server that is Ready."""
    kubectl.apply(SERVER)
    kubectl("wait", "sms/rolling", "--for=condition=Ready", "--timeout=120s")
    yield f"{kubectl.node_url('rolling')}/v1"
    kubectl("delete", "sms/rolling", "--wait")


def test_a_change_that_replaces_every_pod_loses_no_request(kubectl: Kubectl, base_url: str) -> None:
    """Old pods leave the Service before they refuse anything, and end when their last stream has ended."""
    before = {pod["metadata"]["uid"] for pod in kubectl.items(*PODS)}

    def replaced() -> bool:
        pods = {pod["metadata"]["uid"] for pod in kubectl.items(*PODS)}
        return len(pods) == 2 and not pods & before

    with Load(base_url) as load:
        time.sleep(1)
        change = {"spec": {"scheduling": {"maxNumSeqs": 64}}}
        kubectl("patch", "sms", "rolling", "--type=merge", "-p", json.dumps(change))
        until("every pod replaced and gone", replaced, 120)
    assert load.endings.total() >= 3 * CLIENTS
    assert set(load.endings) == {f"length after {TOKENS} tokens"}, load.endings
