"""`python -m bench.operator`: what the operator takes for many servers and many pods, on a real API server.

etcd, the API server, the controllers and the scheduler are real; kwok says that pods run, and one process answers the
admin API of all of them. All that shares this machine with the operator, so CPU seconds are told beside the times.
Needs Linux and root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from tests.apiserver import hollow
from tests.apiserver.cluster import eventually, profile, server
from tests.apiserver.control_plane import Unavailable, process
from tests.apiserver.hollow import Hollow

from bench.streaming import machine
from bench.watching import Seen, Servers
from ghostfleet_operator.reconcile.api import POD, PROFILE, SERVER
from ghostfleet_operator.resolve import ADMIN_PORT

NAMESPACE: Final = "bench"
HEALTH_PORT: Final = 8088
TICKS: Final = os.sysconf("SC_CLK_TCK")
PATIENCE: Final = 600.0

Row = dict[str, Any]


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def child(name: str) -> int:
    """Process id of the child of this process that runs a program of this name."""
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        if Path("/proc", pid, "comm").read_text().strip() == name[:15]:
            return int(pid)
    raise LookupError(name)


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process now and at its highest, MiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


@dataclass
class Bench:
    """A hollow cluster with a running operator."""

    hollow: Hollow
    pid: int
    servers: Servers

    def metric(self, name: str, *labels: str) -> float:
        """Sum of the operator's series of this name that have these labels (`verb="GET"`)."""
        return sum(value for series, value in self._series(name) if all(label in series for label in labels))

    def requests(self) -> Counter[str]:
        """Requests of the operator to the API server so far, by verb and resource."""
        found: Counter[str] = Counter()
        for series, value in self._series("api_requests_total"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
            found[f"{labels['verb']} {labels['resource']}"] += int(value)
        return found

    def _series(self, name: str) -> list[tuple[str, float]]:
        text = httpx.get(f"http://127.0.0.1:{HEALTH_PORT}/metrics", trust_env=False, timeout=60).text
        rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith(f"ghostfleet_operator_{name}")]
        return [(series, float(value)) for series, _, value in rows]

    def passes(self) -> float:
        """Passes over servers so far."""
        return self.metric("reconcile_total", f'kind="{SERVER.name}"')

    @contextlib.contextmanager
    def measured(self, row: Row) -> Iterator[None]:
        """Add what the block takes: seconds, CPU seconds of the operator and of the API server, requests."""
        api, began = child("kube-apiserver"), time.monotonic()
        before, requests = (cpu_seconds(self.pid), cpu_seconds(api)), self.requests()
        yield
        row["seconds"] = round(time.monotonic() - began, 2)
        row["operator_cpu_s"] = round(cpu_seconds(self.pid) - before[0], 2)
        row["api_server_cpu_s"] = round(cpu_seconds(api) - before[1], 2)
        row["requests"] = dict(sorted((self.requests() - requests).items()))
        row["memory_mib"] = {name: round(value) for name, value in memory_mib(self.pid).items()}
        row["load_average"] = round(os.getloadavg()[0], 2)

    def create(self, count: int, replicas: int) -> Row:
        """Make servers that share a profile, all at once; until the last one is Ready."""
        row: Row = {"servers": count, "replicas": replicas}
        names = [f"s{number:04}" for number in range(count)]
        with self.measured(row), ThreadPoolExecutor(8) as pool:
            began = time.monotonic()
            wanted = [
                server(NAMESPACE, name, replicas=replicas, profile=None, profileRef={"name": "shared"})
                for name in names
            ]
            list(pool.map(self.hollow.cluster.create, wanted))
            row["created_after_s"] = round(time.monotonic() - began, 2)
            self.expect(lambda seen: len(seen) == count and all(s.ready for s in seen.values()))
        return row

    def edit(self, ttft: str) -> Row:
        """Change the profile; seconds until every pod runs it, and until every server says so."""
        before, pods = self.hashes(), len(self.hollow.cluster.list(POD, NAMESPACE))
        row: Row = {"pods": pods}

        def live() -> float:
            while max((count for name, count in self.hashes().items() if name not in before), default=0) < pods:
                time.sleep(0.05)
            return time.monotonic()

        with self.measured(row), ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            self.hollow.cluster.merge(PROFILE, NAMESPACE, "shared", {"spec": {"simple": {"timeToFirstToken": ttft}}})
            running = pool.submit(live)
            known = self.expect(lambda seen: all(s.synced and s.hash not in before for s in seen.values()))
            row["live_s"], row["acknowledged_s"] = running.result() - began, known - began
        return row

    def burst(self, edits: int) -> Row:
        """Edit the profile many times, as fast as the API server takes it; the passes and writes that come of it."""
        row: Row = {"edits": edits}

        def one(number: int) -> None:
            patch = {"spec": {"simple": {"timeToFirstToken": f"{number + 1}ms"}}}
            self.hollow.cluster.merge(PROFILE, NAMESPACE, "shared", patch)

        before = self.passes()
        with self.measured(row):
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(one, range(edits)))
            row["edited_after_s"] = round(time.monotonic() - began, 2)
            time.sleep(0.5)
            self.expect(lambda seen: all(s.ready for s in seen.values()))
        row["passes"] = self.passes() - before
        return row

    def idle(self, seconds: float) -> Row:
        """Nothing happens for a while."""
        row: Row = {}
        with self.measured(row):
            time.sleep(seconds)
        row["cpu_percent"] = round(100 * row["operator_cpu_s"] / row["seconds"], 2)
        return row

    def clear(self) -> None:
        """Delete every server, and wait until their pods are gone."""
        cluster = self.hollow.cluster
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda obj: cluster.delete(SERVER, NAMESPACE, obj["metadata"]["name"]),
                    cluster.list(SERVER, NAMESPACE),
                )
            )
        eventually(lambda: not cluster.list(POD, NAMESPACE) or None, within=PATIENCE)

    def hashes(self) -> dict[str, int]:
        """Pods by the hash of what they run."""
        return dict(httpx.get(f"http://{hollow.ANY_POD}:{ADMIN_PORT}/hashes", trust_env=False, timeout=60).json())

    def expect(self, wanted: Callable[[Mapping[str, Seen]], bool]) -> float:
        """When it came true; ends the bench where it does not."""
        at = self.servers.wait(wanted, PATIENCE)
        if at is None:
            raise SystemExit(f"the operator did not get there within {PATIENCE:.0f} s")
        return at


def measure(bench: Bench, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """All scenarios, one after the other."""

    def note(name: str, row: Row) -> None:
        results.setdefault(name, []).append(row)
        tell(f"{name}: {json.dumps(row)}")

    few, pods, many = options.few, options.pods, options.many
    numbers = itertools.count(30)
    note("create", bench.create(few, 1))
    note("idle", bench.idle(options.idle))
    note("burst", bench.burst(500))
    bench.clear()
    for count, replicas, edits in ((few, pods, options.edits), (many, 1, 3)):
        note("create", bench.create(count, replicas))
        for _ in range(edits):
            note(f"edit {count}x{replicas}", bench.edit(f"{next(numbers)}ms"))
        note("idle", bench.idle(options.idle) | {"servers": count, "replicas": replicas})
        bench.clear()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Bench]:
    """The cluster and the operator."""
    with hollow.running(folder) as cluster:
        cluster.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        cluster.cluster.create(profile(NAMESPACE, "shared"))
        key = folder / "key"
        key.write_text("0123456789abcdef" * 2)
        command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "operator", "--key-file", str(key)]
        command += ["--kubeconfig", str(cluster.plane.kubeconfig), "--health-port", str(HEALTH_PORT)]
        servers = Servers(cluster.cluster.client, NAMESPACE)
        with process(command, folder / "operator.log") as operator, servers.watched():
            bench = Bench(cluster, operator.pid, servers)
            eventually(lambda: hollow.answers(f"http://127.0.0.1:{HEALTH_PORT}/readyz"), within=30)
            yield bench


def main() -> int:
    """Run the bench; the exit code."""
    flags = argparse.ArgumentParser(prog="bench.operator", description=__doc__.partition("\n")[0])
    flags.add_argument("--few", type=int, default=10, metavar="N", help="servers that have many pods (10)")
    flags.add_argument("--pods", type=int, default=100, metavar="N", help="pods of each of them (100)")
    flags.add_argument("--many", type=int, default=1000, metavar="N", help="servers of one pod (1000)")
    flags.add_argument("--edits", type=int, default=30, metavar="N", help="edits of the profile of the few (30)")
    flags.add_argument("--idle", type=float, default=60.0, metavar="S", help="seconds of doing nothing (60)")
    options = flags.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    try:
        with tempfile.TemporaryDirectory(prefix="ghostfleet-bench-") as name, running(Path(name)) as bench:
            measure(bench, options, results)
    except Unavailable as error:
        tell(f"bench.operator: {error}")
        return 1
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
