"""A fleet of real processes: what runs, what an edit changes, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.local.conftest import EXAMPLES, FleetProcess, alive, server, until

MakeFleet = Callable[[str], FleetProcess]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def model_of(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models").json()["data"][0]["id"])


def first_token_seconds(url: str) -> float:
    """Time to the first content of a streamed answer, at the client; the best of three, as the machine may be busy."""
    sdk, model, times = client(url), model_of(url), []
    for _ in range(3):
        began = time.monotonic()
        stream = sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello there"}], stream=True, max_tokens=4
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                times.append(time.monotonic() - began)
                break
        stream.close()
    return min(times)


class Stream(threading.Thread):
    """A long stream that is read in the background, token by token."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self.url, self.wanted = url, tokens
        self.finish_reason: str | None = None
        self.completion_tokens = 0
        self.begun = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            for chunk in client(self.url).chat.completions.create(
                model=model_of(self.url),
                messages=[{"role": "user", "content": "A long story, please"}],
                stream=True,
                max_tokens=self.wanted,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            ):
                self.begun.set()
                if chunk.choices:
                    self.finish_reason = chunk.choices[0].finish_reason or self.finish_reason
                if chunk.usage:
                    self.completion_tokens = chunk.usage.completion_tokens
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.failure = error

    def assert_unharmed(self) -> None:
        """It ended by its own length and every token came."""
        self.join(60)
        assert not self.is_alive()
        assert self.failure is None
        assert (self.finish_reason, self.completion_tokens) == ("length", self.wanted)


def test_the_printed_command_streams(shared: FleetProcess) -> None:
    """The curl line that `up` prints is runnable as it is and shows an answer in pieces."""
    words = shared.curl()
    assert words is not None
    assert words[:2] == ["curl", "-N"]
    url, body = words[2], json.loads(words[words.index("-d") + 1])
    if Path("/usr/bin/curl").exists():
        lines = subprocess.run([*words, "-s"], capture_output=True, text=True, timeout=60, check=True).stdout.split(
            "\n\n"
        )
    else:
        lines = httpx.post(url, json=body, timeout=60).text.split("\n\n")
    events = [line for line in lines if line]
    assert len(events) > 3
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_the_openai_sdk_talks_to_both_servers(shared: FleetProcess) -> None:
    """The unmodified SDK gets an answer whole and in pieces from each server of the shared."""
    urls = {name: replica["url"] for name, replica in shared.replicas().items()}
    assert set(urls) == {"alpha-0", "beta-0"}
    for name, url in urls.items():
        model = f"ghostfleet/{name.removesuffix('-0')}"
        whole = client(url).chat.completions.create(model=model, messages=[{"role": "user", "content": "Say hello"}])
        assert whole.model == model
        assert whole.choices[0].message.content
        assert whole.usage is not None
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client(url).chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Say hello"}], stream=True
            )
        ]
        assert "".join(pieces)
    echo = client(urls["beta-0"]).chat.completions.create(
        model="ghostfleet/beta", messages=[{"role": "user", "content": "parrot"}]
    )
    assert echo.choices[0].message.content == "parrot"


def test_an_edited_latency_is_in_the_next_request_and_an_open_stream_goes_on(quickstart: FleetProcess) -> None:
    """Editing the profile changes the measured time to first token of the next request; no process restarts."""
    alpha = quickstart.replicas()["alpha-0"]
    before = first_token_seconds(alpha["url"])
    assert 0.2 <= before < 0.8
    stream = Stream(alpha["url"], tokens=250)
    stream.start()
    assert stream.begun.wait(10)
    quickstart.edit("timeToFirstToken: 200ms", "timeToFirstToken: 900ms")
    quickstart.until_said("alpha: revision 2 is pushed")
    until(lambda: quickstart.settled(revision=2), "both servers run the new document")
    assert stream.is_alive(), "the stream was to be open while the change came"
    for replica in quickstart.replicas().values():
        assert 0.9 <= first_token_seconds(replica["url"]) < 2
    stream.assert_unharmed()
    after = quickstart.replicas()
    assert after["alpha-0"]["pid"] == alpha["pid"]
    assert {row["revision"] for row in quickstart.status()["rows"]} == {2}


def test_replicas_follow_the_file(make_fleet: MakeFleet) -> None:
    """More, fewer and other servers come and go with the file, each replica on an address of its own."""
    fleet = make_fleet(server("one", replicas=1))
    fleet.start()
    first = fleet.replicas()["one-0"]
    fleet.edit('"replicas": 1', '"replicas": 3')
    until(lambda: len(fleet.replicas()) == 3 and fleet.settled(), "three replicas run")
    replicas = fleet.replicas()
    assert len({replica["url"] for replica in replicas.values()}) == 3
    assert replicas["one-0"] == first
    endpoints = json.loads((fleet.state / "endpoints.yaml").read_text())["endpoints"]
    assert [endpoint["name"] for endpoint in endpoints] == ["one-0", "one-1", "one-2"]
    labels = {"ghostfleet.dev/server": "one", "llm-d.ai/engine-type": "vllm"}
    for endpoint in endpoints:
        assert f"http://{endpoint['address']}:{endpoint['port']}" == replicas[endpoint["name"]]["url"]
        assert endpoint["labels"] == labels
    fleet.edit('"replicas": 3', '"replicas": 3, "role": "Decode", "pod": {"labels": {"app": "lab"}}')
    labels |= {"app": "lab", "llm-d.ai/role": "decode"}
    file = fleet.state / "endpoints.yaml"
    until(lambda: json.loads(file.read_text())["endpoints"][0]["labels"] == labels, "the labels are told")
    assert fleet.replicas() == replicas
    gone = [replicas[name]["pid"] for name in ("one-1", "one-2")]
    fleet.edit('"replicas": 3', '"replicas": 1')
    until(lambda: len(fleet.replicas()) == 1, "one replica is left")
    assert not any(map(alive, gone))
    fleet.file.write_text(fleet.file.read_text() + "\n---\n" + server("two"))
    until(lambda: set(fleet.replicas()) == {"one-0", "two-0"} and fleet.settled(), "a second server runs")
    fleet.file.write_text(server("two"))
    until(lambda: set(fleet.replicas()) == {"two-0"}, "the first server is gone")
    assert fleet.replicas()["two-0"]["ready"]


def test_a_setting_that_needs_a_restart_rolls_and_drains(make_fleet: MakeFleet) -> None:
    """Replicas restart one after another: one always serves, and a stream that runs comes to its end."""
    fleet = make_fleet(server("one", replicas=2, scheduling={"maxNumSeqs": 5}))
    fleet.start()
    before = fleet.replicas()
    stream = Stream(before["one-0"]["url"], tokens=120)
    stream.start()
    assert stream.begun.wait(10)
    fleet.edit('"maxNumSeqs": 5', '"maxNumSeqs": 6')
    fewest = 2

    def rolled() -> bool:
        nonlocal fewest
        now = fleet.replicas()
        fewest = min(fewest, sum(replica["ready"] for replica in now.values()))
        return fleet.settled() and all(now[name]["pid"] != before[name]["pid"] for name in before)

    until(rolled, "both replicas were replaced")
    assert fewest == 1
    stream.assert_unharmed()
    token = (fleet.state / "admin-token").read_text().strip()
    for replica in fleet.replicas().values():
        document = httpx.get(f"{replica['adminUrl']}/admin/config", headers={"authorization": f"Bearer {token}"}).json()
        assert document["config"]["scheduling"]["maxNumSeqs"] == 6
        assert replica["url"] in {old["url"] for old in before.values()}


def test_an_invalid_edit_is_told_and_changes_nothing(quickstart: FleetProcess) -> None:
    """The problem is named with file and field, what runs goes on, and a correction is taken over."""
    quickstart.edit("timeToFirstToken: 200ms", "timeToFirstToken: 200mz")
    line = quickstart.until_said("LatencyProfile mid-size: spec.simple.timeToFirstToken: '200mz' is not a duration")
    assert str(quickstart.file) in line
    quickstart.until_said("nothing is changed until this is put right")
    status = quickstart.run("status")
    assert status.returncode == 3
    assert "spec.simple.timeToFirstToken" in status.stderr
    assert first_token_seconds(quickstart.replicas()["alpha-0"]["url"]) < 0.8
    quickstart.edit("timeToFirstToken: 200mz", "timeToFirstToken: 50ms")
    quickstart.until_said("the files are valid again")
    until(lambda: quickstart.settled(revision=2), "the correction is in force")
    assert first_token_seconds(quickstart.replicas()["alpha-0"]["url"]) < 0.2
    assert quickstart.run("status").returncode == 0


def test_a_file_that_vanishes_changes_nothing(quickstart: FleetProcess) -> None:
    """A deleted file is a problem like any other."""
    quickstart.file.unlink()
    quickstart.until_said("fleet.yaml: cannot be read: No such file or directory")
    assert all(replica["ready"] for replica in quickstart.replicas().values())


def test_a_crashed_replica_is_started_again(shared: FleetProcess) -> None:
    """A process that dies is said, replaced at the same address, and counted."""
    before = shared.replicas()["beta-0"]
    os.kill(before["pid"], signal.SIGKILL)
    shared.until_said("beta-0 was ended by signal 9; starting it again in 0.5 s")
    until(lambda: shared.replicas()["beta-0"]["restarts"] == 1 and shared.settled(), "it is ready again")
    after = shared.replicas()["beta-0"]
    assert after["url"] == before["url"]
    assert after["pid"] != before["pid"]


def test_a_killed_supervisor_leaves_no_process(quickstart: FleetProcess) -> None:
    """SIGKILL to the supervisor ends its replicas too, and another fleet can start in its folder."""
    assert quickstart.process
    pids = [replica["pid"] for replica in quickstart.replicas().values()]
    assert all(map(alive, pids))
    quickstart.process.kill()
    quickstart.process.wait()
    until(lambda: not any(map(alive, pids)), "no replica is left")
    assert "no fleet runs" in quickstart.run("down").stderr
    quickstart.lines.clear()
    quickstart.start()
    assert quickstart.stop() == 0


def test_ctrl_c_lets_requests_end_and_a_second_one_does_not(make_fleet: MakeFleet) -> None:
    """The first Ctrl-C drains, the second stops at once; nothing is left either way."""
    fleet = make_fleet(server("one"))
    fleet.start()
    stream = Stream(fleet.replicas()["one-0"]["url"], tokens=60)
    stream.start()
    assert stream.begun.wait(10)
    pids = [replica["pid"] for replica in fleet.replicas().values()]
    assert fleet.stop() == 0
    stream.assert_unharmed()
    assert not any(map(alive, pids))
    assert not (fleet.state / "fleet.json").exists()

    fleet.lines.clear()
    fleet.start()
    stream = Stream(fleet.replicas()["one-0"]["url"], tokens=2000)
    stream.start()
    assert stream.begun.wait(10)
    assert fleet.process
    fleet.process.send_signal(signal.SIGINT)
    fleet.until_said("Ctrl-C again stops at once")
    began = time.monotonic()
    assert fleet.stop() == 0
    assert time.monotonic() - began < 5
    stream.join(10)
    assert stream.failure is not None


def test_detached_fleet_is_seen_changed_and_stopped(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """--detach returns when all is ready; status, apply and down work on it; a second one is refused."""
    fleet = make_fleet(server("one"))
    up = fleet.run("up", "-df", str(fleet.file))
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("curl -N http://127.")
    down = f"`ghostfleet down --state {fleet.state}`"
    assert f"1 replica runs; `ghostfleet status --state {fleet.state}` shows it, {down} stops it" in up.stderr
    pids = [fleet.status()["pid"], *(replica["pid"] for replica in fleet.replicas().values())]
    assert all(map(alive, pids))

    again = fleet.run("up", "-f", str(fleet.file))
    assert again.returncode == 1
    assert f"a fleet runs already (process {pids[0]}, from {fleet.file}): {down} stops it" in again.stderr

    status = fleet.run("status")
    assert status.returncode == 0
    assert status.stdout.splitlines()[0].split()[:4] == ["SERVER", "REPLICA", "URL", "READY"]
    assert status.stdout.splitlines()[1].split()[:2] == ["one", "one-0"]

    other = tmp_path / "other.yaml"
    other.write_text(server("one", replicas=2) + "\n---\n" + server("two"))
    applied = fleet.run("apply", "-f", str(other))
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout.splitlines() == ["SimulatedModelServer one changed", "SimulatedModelServer two added"]
    assert set(fleet.replicas()) == {"one-0", "one-1", "two-0"}
    assert fleet.run("apply", "-f", str(other)).stdout.splitlines()[0] == "SimulatedModelServer one unchanged"

    other.write_text(server("one", replicas=-1))
    refused = fleet.run("apply", "-f", str(other))
    assert refused.returncode == 2
    assert f"{other}: SimulatedModelServer one: spec.replicas: " in refused.stderr
    assert set(fleet.replicas()) == {"one-0", "one-1", "two-0"}

    fleet.file.write_text(server("one", replicas=3))
    until(lambda: set(fleet.replicas()) == {"one-0", "one-1", "one-2", "two-0"}, "the later edit of the file counts")

    pids += [replica["pid"] for replica in fleet.replicas().values()]
    down = fleet.run("down")
    assert (down.returncode, down.stderr) == (0, "the fleet is stopped\n")
    # The kernel may still be taking the supervisor's process apart; replicas ended before it.
    assert not any(map(alive, pids[1:]))
    until(lambda: not alive(pids[0]), "the supervisor is gone", seconds=2)
    assert fleet.run("status").returncode == 1


def test_a_patch_behind_the_fleets_back_is_put_right(make_fleet: MakeFleet) -> None:
    """A replica that runs something else than the files say gets their document again."""
    fleet = make_fleet(server("one"))
    fleet.start()
    (replica,) = fleet.replicas().values()
    token = {"authorization": "Bearer " + (fleet.state / "admin-token").read_text().strip()}
    assert httpx.get(f"{replica['adminUrl']}/admin/state").status_code == 401
    before = httpx.get(f"{replica['adminUrl']}/admin/state", headers=token).json()["hash"]
    patch = {"profile": {"simple": {"timeToFirstToken": "777ms"}}}
    assert httpx.patch(f"{replica['adminUrl']}/admin/config", json=patch, headers=token).status_code == 200

    def restored() -> bool:
        return bool(httpx.get(f"{replica['adminUrl']}/admin/state", headers=token).json()["hash"] == before)

    assert not restored()
    until(restored, "the document of the file is in force again")


def test_the_token_is_a_secret(shared: FleetProcess) -> None:
    """Nobody else on the machine reads the folder or the token."""
    assert (shared.state / "admin-token").stat().st_mode & 0o777 == 0o600
    assert (shared.state).stat().st_mode & 0o777 == 0o700


def test_an_address_that_is_taken_is_passed_over(make_fleet: MakeFleet) -> None:
    """Two fleets beside each other, or another program on a port, do not disturb each other."""
    one, two = make_fleet(server("one")), make_fleet(server("two"))
    one.start()
    two.start()
    urls = {fleet.replicas()[name]["url"] for fleet, name in ((one, "one-0"), (two, "two-0"))}
    assert len(urls) == 2
    assert {model_of(url) for url in urls} == {"one", "two"}


@pytest.mark.parametrize("example", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_example_works_as_it_is(example: Path, make_fleet: MakeFleet) -> None:
    """Each file in examples/ starts, and each of its replicas answers or fails as it says."""
    fleet = make_fleet(example.read_text())
    fleet.start()
    for replica in fleet.replicas().values():
        body: dict[str, Any] = {"model": model_of(replica["url"]), "prompt": "Once upon a time", "max_tokens": 3}
        answers = {httpx.post(f"{replica['url']}/v1/completions", json=body, timeout=60).status_code for _ in range(3)}
        assert 200 in answers or example.name == "failures.yaml"
