"""The fleet of somebody's own tests: which server took a request, and what it was doing."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ghostfleet_operator.testing import Fleet, FleetError
from ghostfleet_operator.testing.plugin import StartFleet

FLEET = """
apiVersion: ghostfleet.dev/v1alpha1
kind: SimulatedModelServer
metadata: {name: alpha}
spec:
  replicas: 2
  model: {name: m}
  scheduling: {maxNumSeqs: 1}
  profile: {simple: {timeToFirstToken: 10ms, interTokenLatency: 1ms}}
---
apiVersion: ghostfleet.dev/v1alpha1
kind: SimulatedModelServer
metadata: {name: beta}
spec:
  model: {name: m}
  profile: {simple: {}}
"""


def ask(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": "Once upon a time", "max_tokens": 3, **fields}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def until(url: str, running: int, waiting: int) -> None:
    """Wait for these gauges."""
    for _ in range(1000):
        text = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
        if [_gauge(text, "running"), _gauge(text, "waiting")] == [running, waiting]:
            return
        time.sleep(0.01)
    pytest.fail(f"not {running} running and {waiting} waiting requests: {text}")


def _gauge(text: str, name: str) -> float:
    found = re.search(rf"^vllm:num_requests_{name}{{.*}} (.*)$", text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.fixture(scope="module")
def fleet(ghostfleet_session_fleet: StartFleet) -> Iterator[Fleet]:
    return ghostfleet_session_fleet(FLEET)


def test_it_tells_how_many_answers_each_server_gave(fleet: Fleet) -> None:
    """By replica and by object, from the start or since it was told to forget."""
    assert sorted(fleet.urls) == ["alpha-0", "alpha-1", "beta-0"]
    fleet.forget()
    for name, times in (("alpha-0", 2), ("alpha-1", 1), ("beta-0", 3)):
        for _ in range(times):
            ask(fleet.urls[name])
    assert fleet.taken() == {"alpha-0": 2, "alpha-1": 1, "beta-0": 3}
    assert fleet.taken_by_server() == {"alpha": 3, "beta": 3}
    fleet.forget()
    assert fleet.taken().total() == 0


def test_it_tells_which_server_gave_a_response(fleet: Fleet) -> None:
    """By the id in the response, of one answer or of several."""
    one, several = ask(fleet.urls["alpha-1"]), ask(fleet.urls["beta-0"], n=2)
    assert (fleet.where(one["id"]).replica, fleet.where(several["id"]).server) == ("alpha-1", "beta")
    assert fleet.where(one["id"]).completion_tokens == one["usage"]["completion_tokens"]
    with pytest.raises(LookupError, match="cmpl-unheard-of"):
        fleet.where("cmpl-unheard-of")


def test_it_tells_what_a_server_was_doing_when_a_request_came(fleet: Fleet) -> None:
    """On a server with one slot the second request finds one that runs, the third one more that waits."""
    url = fleet.urls["alpha-0"]
    fleet.until_idle()
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(url, max_tokens=2000, ignore_eos=True))) for _ in range(3)
    ]
    for thread, there in zip(threads, ((1, 0), (1, 1), (1, 2)), strict=True):
        thread.start()
        until(url, *there)  # that which came before has its slot, or its place in the queue
    for thread in threads:
        thread.join()
    found = [fleet.where(answer["id"]) for answer in answers]
    assert sorted((one.found_running, one.found_waiting) for one in found) == [(0, 0), (1, 0), (1, 1)]


def test_a_profile_changes_while_it_runs(fleet: Fleet) -> None:
    """What is applied is in force when `apply` returns, in the same processes."""
    before = fleet.replicas
    fleet.apply(FLEET.replace("timeToFirstToken: 10ms", "timeToFirstToken: 400ms"))
    answer = ask(fleet.urls["alpha-0"])
    seconds = fleet.where(answer["id"]).time_to_first_token_seconds
    assert seconds is not None
    assert seconds >= 0.4
    assert {name: one.pid for name, one in fleet.replicas.items()} == {name: one.pid for name, one in before.items()}
    with pytest.raises(FleetError, match=r"spec\.replicas"):
        fleet.apply(FLEET.replace("replicas: 2", "replicas: -2"))


def test_a_killed_server_leaves_the_endpoints_and_comes_back(ghostfleet_fleet: StartFleet) -> None:
    """As a scheduler sees a crash; a new process has served nothing yet."""
    fleet = ghostfleet_fleet(FLEET)
    ask(fleet.urls["beta-0"])
    assert fleet.taken()["beta-0"] == 1
    old = fleet.replicas["beta-0"]
    old.kill()
    while fleet.replicas["beta-0"].pid == old.pid:
        time.sleep(0.05)
    fleet.until_ready()
    assert "beta-0" in fleet.endpoints_file.read_text()
    assert fleet.taken()["beta-0"] == 0


def test_what_is_wrong_with_a_source_is_told(tmp_path: Path) -> None:
    """The field, not a time-out."""
    with pytest.raises(FleetError, match=r"spec\.model\.name"):
        Fleet(FLEET.replace("model: {name: m}\n  scheduling", "model: {}\n  scheduling"), folder=tmp_path)


OTHER_PROJECT = """
import httpx

def test_requests_go_where_the_cache_is(ghostfleet_fleet):
    fleet = ghostfleet_fleet("fleet.yaml")
    scheduler = next(iter(fleet.urls.values()))
    answer = httpx.post(f"{scheduler}/v1/completions", json={"model": "m", "prompt": "Hi"}, trust_env=False).json()
    assert fleet.where(answer["id"]).server == "alpha"
"""


def test_another_project_needs_five_lines(tmp_path: Path) -> None:
    """The fixture is there wherever ghostfleet is installed; no conftest, no import."""
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "test_scheduler.py").write_text(OTHER_PROJECT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
