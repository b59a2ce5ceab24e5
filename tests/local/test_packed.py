"""Many servers in few processes: each is its own to whoever talks to it, and to who starts, changes and ends it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.local.conftest import FleetProcess, alive, fleets, server, until
from tests.local.test_fleet import Stream

from ghostfleet_operator.testing.plugin import StartFleet

MakeFleet = Callable[[str], FleetProcess]
SERVERS, ROOM = 50, 25


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """Fifty servers in two processes, for tests that leave as many."""
    with fleets(tmp_path_factory.mktemp("packed")) as make:
        fleet = make(server("many", replicas=SERVERS) + "\n---\n" + server("few", replicas=0))
        fleet.start("--servers-per-process", str(ROOM))
        yield fleet


def processes(fleet: FleetProcess) -> Counter[int]:
    """How many servers each process hosts."""
    return Counter(replica["pid"] for replica in fleet.replicas().values())


def admin(fleet: FleetProcess, name: str, method: str, path: str, **more: Any) -> httpx.Response:
    """A request to the admin API of a replica."""
    token = (fleet.state / "admin-token").read_text().strip()
    url = f"{fleet.replicas()[name]['adminUrl']}/admin/{path}"
    return httpx.request(method, url, headers={"authorization": f"Bearer {token}"}, timeout=60, **more)


def test_servers_share_processes_and_nothing_else(fifty: FleetProcess) -> None:
    """Two processes; fifty addresses, each with metrics, headers and a log of its own."""
    replicas = fifty.replicas()
    assert sorted(processes(fifty).values()) == [ROOM, ROOM]
    assert len({replica["url"] for replica in replicas.values()}) == SERVERS
    for name, times in (("many-3", 2), ("many-4", 1)):
        for _ in range(times):
            body = {"model": "many", "prompt": "Once", "max_tokens": 2, "ignore_eos": True}
            answer = httpx.post(f"{replicas[name]['url']}/v1/completions", json=body, timeout=60)
            assert answer.headers["x-inference-pod"] == name
    counts = {
        name: re.search(
            r'^vllm:request_success_total\{.*finished_reason="length".*\} (\d+)$',
            httpx.get(f"{replicas[name]['url']}/metrics", timeout=60).text,
            re.MULTILINE,
        )
        for name in ("many-2", "many-3", "many-4")
    }
    assert [found and found[1] for found in counts.values()] == ["0", "2", "1"]
    for name in ("many-3", "many-49"):
        log = Path(replicas[name]["log"]).read_text()
        assert log.count("Application startup complete.") == 1
        assert replicas[name]["url"] in log


def test_every_server_answers_scrapes_that_come_every_second(fifty: FleetProcess) -> None:
    """Each of them, over connections that are kept; what a scrape takes is measured by `bench.scale`."""
    urls = [replica["url"] for replica in fifty.replicas().values()]

    async def scraped() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            return [
                answer
                for _ in range(3)
                for answer in await asyncio.gather(
                    asyncio.sleep(1), *(client.get(f"{url}/metrics") for url in urls), return_exceptions=False
                )
                if answer is not None
            ]

    answers = asyncio.run(scraped())
    assert len(answers) == 3 * SERVERS
    assert all(answer.status_code == 200 and "vllm:num_requests_waiting" in answer.text for answer in answers)


def test_servers_at_rest_take_no_cpu(fifty: FleetProcess) -> None:
    """Fifty servers that nobody asks: their processes are not even woken."""

    def woken() -> int:
        return sum(
            int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)[0])
            for pid in processes(fifty)
            for status in (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
        )

    time.sleep(3)  # the garbage collector looks after what the last test left
    before = woken()
    time.sleep(3)
    assert woken() - before < 15


def test_a_crash_takes_one_server_down(fifty: FleetProcess) -> None:
    """The fault is that of one server: it comes back in the same process, and a neighbour's stream goes on."""
    victim = fifty.replicas()["many-7"]
    neighbour = next(
        replica for name, replica in fifty.replicas().items() if replica["pid"] == victim["pid"] and name != "many-7"
    )
    stream = Stream(neighbour["url"], tokens=150)
    stream.start()
    assert stream.begun.wait(30)
    crash = {"failures": [{"type": "Crash", "after": "1ms", "exitCode": 9}]}
    assert admin(fifty, "many-7", "PATCH", "config", json=crash).status_code == 200
    fifty.until_said("many-7 ended with code 9; starting it again in 0.5 s")
    until(lambda: fifty.replicas()["many-7"]["restarts"] == 1 and fifty.settled(), "it is ready again")
    stream.assert_unharmed()
    after = fifty.replicas()["many-7"]
    assert (after["url"], after["pid"]) == (victim["url"], victim["pid"])
    assert sum(replica["restarts"] for replica in fifty.replicas().values()) == 1
    assert "crashing with exit code 9: an injected failure" in Path(after["log"]).read_text()
    assert admin(fifty, "many-7", "GET", "state").json()["requests"]["error"] == 0


def test_an_edit_reaches_all_without_a_restart(fifty: FleetProcess) -> None:
    """As with a process each."""
    before = fifty.replicas()
    fifty.edit('"interTokenLatency": "20ms"', '"interTokenLatency": "19ms"')
    until(lambda: fifty.settled(revision=2), "all run the new document")
    after = fifty.replicas()
    assert {name: replica["starts"] for name, replica in after.items()} == {
        name: replica["starts"] for name, replica in before.items()
    }
    assert all(replica["synced"] for replica in after.values())
    document = admin(fifty, "many-31", "GET", "config").json()
    assert document["config"]["profile"]["simple"]["interTokenLatency"] == "19ms"
    status = fifty.run("status")
    assert status.returncode == 0, status.stderr
    assert len([line for line in status.stdout.splitlines() if line.split()[3:4] == ["yes"]]) == SERVERS


def test_a_patch_behind_the_fleets_back_is_put_right(fifty: FleetProcess) -> None:
    """The process tells of it; nobody asks fifty servers again and again."""
    wanted = admin(fifty, "many-5", "GET", "state").json()["hash"]
    patch = {"profile": {"simple": {"timeToFirstToken": "777ms"}}}
    assert admin(fifty, "many-5", "PATCH", "config", json=patch).status_code == 200
    fifty.until_said("many-5 runs revision 2 with another hash; it is put right")
    until(lambda: admin(fifty, "many-5", "GET", "state").json()["hash"] == wanted, "the file's document is back")


def test_a_process_that_is_killed_takes_its_servers_and_all_come_back(fifty: FleetProcess) -> None:
    """One line tells of the process; the servers of the other one go on."""
    counts = fifty.replicas()
    pid = counts["many-0"]["pid"]
    os.kill(pid, signal.SIGKILL)
    fifty.until_said(f"a process with {ROOM} servers was ended by signal 9: ")
    until(lambda: fifty.settled() and pid not in processes(fifty), "all are ready again")
    after = fifty.replicas()
    for name, replica in after.items():
        was_hit = counts[name]["pid"] == pid
        assert replica["restarts"] == counts[name]["restarts"] + was_hit, name
        assert replica["pid"] != pid, name
        assert was_hit or replica["pid"] == counts[name]["pid"], name
    assert sorted(processes(fifty).values()) == [ROOM, ROOM]


def test_fewer_servers_leave_fewer_processes(make_fleet: MakeFleet) -> None:
    """Servers come where there is room; a process ends with its last server; what runs is drained."""
    fleet = make_fleet(server("one", replicas=5))
    fleet.start("--servers-per-process", "2")
    before = fleet.replicas()
    assert sorted(processes(fleet).values()) == [1, 2, 2]
    stream = Stream(before["one-4"]["url"], tokens=100)
    stream.start()
    assert stream.begun.wait(30)
    fleet.edit('"replicas": 5', '"replicas": 1')
    until(lambda: len(fleet.replicas()) == 1, "the others have gone")
    stream.assert_unharmed()
    gone = {replica["pid"] for replica in before.values()} - set(processes(fleet))
    assert len(gone) == 2
    assert not any(map(alive, gone))
    fleet.file.write_text(fleet.file.read_text() + "\n---\n" + server("two", replicas=3))
    until(lambda: len(fleet.replicas()) == 4 and fleet.settled(), "another server runs")
    assert sorted(processes(fleet).values()) == [2, 2]
    pids = list(processes(fleet))
    assert fleet.stop() == 0
    assert not any(map(alive, pids))


def test_a_setting_that_needs_a_restart_rolls_within_the_process(make_fleet: MakeFleet) -> None:
    """One replica after the other, in the process where it is; an open stream comes to its end."""
    fleet = make_fleet(server("one", replicas=3, scheduling={"maxNumSeqs": 5}))
    fleet.start("--servers-per-process", "10")
    before = fleet.replicas()
    stream = Stream(before["one-0"]["url"], tokens=100)
    stream.start()
    assert stream.begun.wait(30)
    fleet.edit('"maxNumSeqs": 5', '"maxNumSeqs": 6')
    until(
        lambda: fleet.settled() and all(replica["starts"] == 2 for replica in fleet.replicas().values()),
        "all were restarted",
    )
    stream.assert_unharmed()
    assert {replica["pid"] for replica in fleet.replicas().values()} == {before["one-0"]["pid"]}
    for name in before:
        assert admin(fleet, name, "GET", "config").json()["config"]["scheduling"]["maxNumSeqs"] == 6


def test_servers_of_a_process_publish_kv_events_each_at_its_address(make_fleet: MakeFleet) -> None:
    """With one ZeroMQ context for all; a server that ends leaves the others' sockets alone."""
    zmq = pytest.importorskip("zmq")
    fleet = make_fleet(server("one", replicas=3, kvEvents={"enableKvCacheEvents": True}))
    fleet.start("--servers-per-process", "3")
    fleet.edit('"replicas": 3', '"replicas": 2')
    until(lambda: len(fleet.replicas()) == 2 and fleet.settled(), "two are left")
    context = zmq.Context()
    try:
        for name in ("one-0", "one-1"):
            endpoint = admin(fleet, name, "GET", "state").json()["kvEvents"]["endpoint"]
            assert fleet.replicas()[name]["url"].split("/")[2].split(":")[0] in endpoint
            socket = context.socket(zmq.SUB)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(endpoint)

            def published(socket: Any = socket, name: str = name) -> bool:
                body = {"model": "one", "prompt": f"{time.monotonic()} " * 40, "max_tokens": 1}
                httpx.post(f"{fleet.replicas()[name]['url']}/v1/completions", json=body, timeout=60)
                return bool(socket.poll(200))

            until(published, f"{name} publishes")
            socket.close(0)
    finally:
        context.term()


def test_a_killed_supervisor_leaves_no_server(make_fleet: MakeFleet) -> None:
    """The processes end when nobody holds their input any more."""
    fleet = make_fleet(server("one", replicas=4))
    fleet.start("--servers-per-process", "2")
    pids = list(processes(fleet))
    assert fleet.process
    fleet.process.kill()
    fleet.process.wait()
    until(lambda: not any(map(alive, pids)), "no process is left")


def test_a_number_of_servers_that_makes_no_sense_is_one_line(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(server("one"))
    for wrong in ("0", "1001"):
        ended = fleet.run("up", "-f", str(fleet.file), "--servers-per-process", wrong)
        assert (ended.returncode, ended.stderr) == (
            2,
            "ghostfleet up: --servers-per-process: must be 1 to 1000\n",
        )


def test_a_test_kills_one_server_of_a_shared_process(ghostfleet_fleet: StartFleet) -> None:
    """The pytest plugin: `kill` means the server, and what it counts begins anew."""
    fleet = ghostfleet_fleet(server("one", replicas=3) + "\n", servers_per_process=3)
    for name in ("one-1", "one-1", "one-2"):
        body = {"model": "one", "prompt": "Once", "max_tokens": 1}
        assert httpx.post(f"{fleet.urls[name]}/v1/completions", json=body, timeout=60).status_code == 200
    assert fleet.taken() == {"one-0": 0, "one-1": 2, "one-2": 1}
    fleet.forget()
    old = fleet.replicas["one-1"]
    old.kill()
    until(lambda: fleet.replicas["one-1"].starts == old.starts + 1, "it is started again")
    fleet.until_ready()
    assert fleet.taken() == {"one-0": 0, "one-1": 0, "one-2": 0}
    assert {replica.starts for name, replica in fleet.replicas.items() if name != "one-1"} == {1}
    assert json.loads(fleet.endpoints_file.read_text())["endpoints"][1]["name"] == "one-1"
