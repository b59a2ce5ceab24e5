"""A change goes to some of the pods first: on to all of them after the pause, back when those pods fail requests."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from .conftest import Kubectl, Object, until

PODS, WAVE, PAUSE = 4, 2, 6
STEP: Object = {"percent": 50, "pause": {"duration": f"{PAUSE}s"}}
SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "canary"},
    "spec": {
        "model": {"name": "ghostfleet/canary", "servedNames": ["canary"]},
        "replicas": PODS,
        "profile": {"simple": {"timeToFirstToken": "20ms", "interTokenLatency": "2ms"}},
        "rollout": {"maxErrorPercent": 10, "steps": [STEP]},
        "pod": {"terminationGracePeriodSeconds": 5},
    },
}
ASK = {"model": "canary", "prompt": "hello", "max_tokens": 2}


class Fleet:
    """The server's pods, each asked by itself."""

    def __init__(self, kubectl: Kubectl, api: str) -> None:
        """`api` is the base URL of the API server."""
        self._kubectl = kubectl
        found = kubectl.items("pods", "-l", "ghostfleet.dev/server=canary")
        self._urls = {pod["metadata"]["name"]: kubectl.pod_url(api, pod["metadata"]["name"]) for pod in found}

    def patch(self, **spec: object) -> None:
        """Put fields over those of the server's spec."""
        self._kubectl("patch", "sms", "canary", "--type=merge", "-p", json.dumps({"spec": spec}))

    def revisions(self) -> dict[str, int]:
        """The revision that each pod says it runs, with its answer to a request that costs nothing."""
        answers = {pod: httpx.get(f"{url}/v1/models", trust_env=False, timeout=30) for pod, url in self._urls.items()}
        return {pod: int(answer.headers["x-ghostfleet-revision"]) for pod, answer in answers.items()}

    def statuses(self) -> dict[str, int]:
        """The status with which each pod answers a prompt."""
        return {
            pod: httpx.post(f"{url}/v1/completions", json=ASK, trust_env=False, timeout=30).status_code
            for pod, url in self._urls.items()
        }

    def status(self) -> Object:
        """Of the server; its conditions by type."""
        found: Object = self._kubectl.get("sms", "canary")["status"]
        return found | {"conditions": {each["type"]: each for each in found["conditions"]}}

    def restarts(self) -> dict[str, int]:
        """Of every pod there is."""
        found = self._kubectl.items("pods", "-l", "ghostfleet.dev/server=canary")
        return {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in found}

    def wave(self, of: int) -> set[str]:
        """The pods that run a revision beyond `of`, once as many do as are to, and the status tells of them."""

        def found() -> set[str]:
            rollout = self.status()["profile"].get("rollout") or {}
            pods = {pod for pod, revision in self.revisions().items() if revision > of}
            return pods if rollout.get("syncedReplicas") == len(pods) == WAVE else set()

        return until("the wave runs it", found, 60)


@pytest.fixture(scope="module")
def fleet(kubectl: Kubectl, api: str) -> Fleet:
    """All pods Ready."""
    kubectl.apply(SERVER)
    kubectl("wait", "sms/canary", "--for=condition=Ready", "--timeout=120s")
    return Fleet(kubectl, api)


def in_force(fleet: Fleet, holds: Callable[[int], bool]) -> None:
    """Wait until all pods run one revision for which something holds."""
    until("one revision everywhere", lambda: len(found := set(fleet.revisions().values())) == 1 and holds(*found), 60)


def test_a_profile_goes_to_half_of_the_pods_and_after_the_pause_to_all(fleet: Fleet) -> None:
    """Answers and status tell the same; no pod is replaced or restarted."""
    before = fleet.restarts()
    (old,) = set(fleet.revisions().values())
    began = time.monotonic()
    fleet.patch(profile={"simple": {"timeToFirstToken": "30ms"}})
    wave = fleet.wave(old)
    status = fleet.status()
    rollout = status["profile"]["rollout"]
    assert (rollout["step"], rollout["steps"], rollout["waveReplicas"]) == (1, 1, WAVE)
    assert rollout["revision"] > old
    assert status["conditions"]["ProfileSynced"]["reason"] in {"Canary", "CanaryPaused"}
    assert status["conditions"]["Ready"]["status"] == "False"
    in_force(fleet, lambda revision: revision == rollout["revision"])
    assert time.monotonic() - began >= PAUSE
    assert len(wave) == WAVE
    until("the server is Ready", lambda: fleet.status()["conditions"]["Ready"]["status"] == "True", 60)
    assert "rollout" not in fleet.status()["profile"]
    assert fleet.restarts() == before


def test_a_wave_that_fails_requests_is_taken_back(fleet: Fleet) -> None:
    """While it lasts the others answer as before; then all do, and the status says why nothing changed."""
    before = fleet.restarts()
    (old,) = set(fleet.revisions().values())
    fleet.patch(failures=[{"type": "HTTPError", "status": 500}], rollout={"steps": [{"percent": 50, "pause": {}}]})
    wave = fleet.wave(old)
    assert {pod for pod, status in fleet.statuses().items() if status == 500} == wave
    others: Counter[int] = Counter()

    def taken_back() -> Object | None:
        others.update(status for pod, status in fleet.statuses().items() if pod not in wave)
        status = fleet.status()
        return status if status["profile"].get("rejected") else None

    status = until("it is taken back", taken_back, 60)
    assert set(others) == {200}
    rejected = status["profile"]["rejected"]
    assert rejected["reason"] == "Errors", rejected
    assert rejected["revision"] > old
    in_force(fleet, lambda revision: revision > rejected["revision"])
    assert set(fleet.statuses().values()) == {200}
    until("it is Stalled", lambda: "Stalled" in fleet.status()["conditions"], 60)
    assert fleet.status()["conditions"]["Ready"]["reason"] == "ProfileRolledBack"
    assert fleet.restarts() == before
