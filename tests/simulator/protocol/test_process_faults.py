"""Injected failures of a server as a whole, against a real process: readiness, memory, and its end."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from .conftest import Serve, Served

CHAT = "/v1/chat/completions"
MIB = 2**20


def inject(served: Served, *failures: dict[str, Any], headers: bool = False) -> None:
    """Put failures in force, and nothing else."""
    patch = {"failures": list(failures), "failureHeaders": headers}
    answer = httpx.patch(f"{served.admin_url}/admin/config", json=patch)
    assert answer.status_code == 200, answer.text


def value(served: Served, name: str) -> float:
    """One series of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{served.url}/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True, **more}


@pytest.fixture(scope="module")
def steady(serve: Serve) -> Served:
    """A server that survives its tests."""
    return serve("--inter-token-latency", "10ms")


# --- readiness -----------------------------------------------------------------------------------


def test_readiness_flaps_with_its_period(steady: Served) -> None:
    """Not ready for the last 30 % of each period; the server serves all the time, and probes are counted."""
    inject(steady, {"type": "Unready", "period": "1s", "duty": "30%"})
    began, seen = time.monotonic(), []
    while time.monotonic() - began < 3:
        asked = time.monotonic() - began
        answer = httpx.get(f"{steady.admin_url}/admin/ready")
        seen.append((asked, time.monotonic() - began, answer.status_code))
        if answer.status_code == 503:
            assert answer.json() == {"ready": False, "reason": "Unready"}
            assert answer.headers["x-ghostfleet-fault"] == "Unready"
        time.sleep(0.01)
    # Away from the edges by what a busy machine may be late.
    for asked, told, status in seen:
        if 0.78 < asked % 1 < told - asked // 1 < 0.92:
            assert status == 503, asked
        elif 0.08 < asked % 1 < told - asked // 1 < 0.62:
            assert status == 200, asked
    assert {status for *_, status in seen} == {200, 503}
    assert httpx.post(f"{steady.url}{CHAT}", json=body()).status_code == 200
    assert httpx.get(f"{steady.url}/health").status_code == 200
    assert value(steady, 'ghostfleet_faults_total{type="Unready"}') == sum(status == 503 for *_, status in seen)
    inject(steady)


def test_a_server_is_not_ready_for_good(steady: Served) -> None:
    """Without a period it stays so until the failure is switched off; another change does not begin a period anew."""
    inject(steady, {"type": "Unready"})
    for _ in range(3):
        assert httpx.get(f"{steady.admin_url}/admin/ready").status_code == 503
        assert steady.state()["ready"] is False
        time.sleep(0.1)
    inject(steady)
    assert httpx.get(f"{steady.admin_url}/admin/ready").status_code == 200


# --- memory --------------------------------------------------------------------------------------


def test_memory_grows_to_its_limit_and_comes_back(steady: Served) -> None:
    """Resident memory grows at its rate, stops at the limit, is given back, and tokens keep their pace meanwhile."""
    before = value(steady, "process_resident_memory_bytes")
    inject(steady, {"type": "MemoryGrowth", "growth": "80Mi", "limit": "120Mi"})
    began = time.monotonic()
    time.sleep(0.75)
    early = value(steady, "process_resident_memory_bytes") - before
    assert 20 * MIB < early < (24 + 80 * (time.monotonic() - began)) * MIB, "60 MiB are due"
    with httpx.stream("POST", f"{steady.url}{CHAT}", json=body(stream=True, max_tokens=100)) as response:
        stamps = [time.monotonic() for _ in response.iter_lines()]
    assert stamps[-1] - stamps[0] < 3, "one second is due"
    time.sleep(1)
    grown = value(steady, "process_resident_memory_bytes") - before
    assert 112 * MIB < grown < 140 * MIB
    time.sleep(0.3)
    assert abs(value(steady, "process_resident_memory_bytes") - before - grown) < 8 * MIB, "it stays at the limit"
    assert value(steady, 'ghostfleet_faults_total{type="MemoryGrowth"}') == 1
    inject(steady)
    assert value(steady, "process_resident_memory_bytes") - before < 16 * MIB


# --- crash ---------------------------------------------------------------------------------------


def test_a_server_crashes_after_a_time(serve: Serve) -> None:
    """Streams are cut, the exit code is the one asked for, and the log says why in a line."""
    served = serve("--inter-token-latency", "10ms")
    inject(served, {"type": "Crash", "after": "700ms", "exitCode": 137})
    began = time.monotonic()
    with (
        pytest.raises(httpx.TransportError),
        httpx.stream("POST", f"{served.url}{CHAT}", json=body(stream=True, max_tokens=5000)) as response,
    ):
        for _ in response.iter_lines():
            pass
    assert served.process.wait(10) == 137
    assert 0.6 < time.monotonic() - began < 8
    log = served.log.read_text()
    assert "crashing with exit code 137: an injected failure" in log
    assert "Traceback" not in log


def test_a_crash_that_was_called_off_does_not_come(steady: Served) -> None:
    """Switched off in time, the server lives on."""
    inject(steady, {"type": "Crash", "after": "2s"})
    inject(steady)
    time.sleep(2.3)
    assert steady.process.poll() is None
    assert steady.state()["ready"]


def test_a_crash_of_the_configuration_comes_after_every_start(serve: Serve, tmp_path: Any) -> None:
    """As a pod that is started again with the same configuration would crash again."""
    file = tmp_path / "crash.yaml"
    file.write_text("model: {name: m}\nfailures:\n- {type: Crash, after: 1s, exitCode: 3}\n")
    served = serve("--config", str(file))
    assert served.process.wait(10) == 3


def test_a_request_crashes_the_server(serve: Serve) -> None:
    """Exit code 1 if nothing else is said; the request that did it gets no answer, one before it did."""
    served = serve()
    inject(served, {"type": "Crash", "match": {"models": ["org/none", "m"], "headers": [{"name": "x-crash"}]}})
    assert httpx.post(f"{served.url}{CHAT}", json=body()).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{served.url}{CHAT}", json=body(), headers={"x-crash": "now"})
    assert served.process.wait(10) == 1


def test_a_server_crashes_in_mid_stream(serve: Serve) -> None:
    """The tokens before it arrived."""
    served = serve("--inter-token-latency", "10ms", "--failure-headers")
    header = {"x-ghostfleet-inject": "Crash; afterTokens=5; exitCode=7"}
    lines: list[str] = []
    with httpx.stream("POST", f"{served.url}{CHAT}", json=body(stream=True), headers=header) as response:
        assert response.headers["x-ghostfleet-fault"] == "Crash"
        with pytest.raises(httpx.RemoteProtocolError):
            lines.extend(response.iter_lines())
    assert len([line for line in lines if line]) == 1 + 5
    assert served.process.wait(10) == 7


def test_crashes_come_at_their_share_and_with_a_seed_at_the_same_request(serve: Serve) -> None:
    """Two servers with one seed die at the same request."""
    survived = []
    for _ in range(2):
        served = serve("--failure-injection-rate", "20", "--failure-types", "crash", "--seed", "5")
        with httpx.Client() as client:
            count = 0
            while True:
                try:
                    client.post(f"{served.url}{CHAT}", json=body(max_tokens=1))
                except httpx.TransportError:
                    break
                count += 1
        assert served.process.wait(10) == 1
        survived.append(count)
    assert survived[0] == survived[1]
    assert survived[0] < 60
