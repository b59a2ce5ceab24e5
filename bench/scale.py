"""`python -m bench.scale`: how many servers one machine holds, and how often they can be asked for their metrics.

A fleet of `ghostfleet up` with many servers in few processes; `scraper.c` asks for metrics as endpoint pickers do.
All shares one machine, so the scraper's CPU is told beside the fleet's. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.client import BenchError, cache_folder, compiled
from bench.servers import family
from bench.streaming import machine
from ghostfleet_operator.testing import Fleet, FleetError

SCRAPER: Final = Path(__file__).with_name("scraper.c")
LIMIT_MS: Final = 50.0
"""A scrape that takes longer is late: an endpoint picker asks again by then."""
PICKER_PER_S: Final = 20.0
"""Scrapes per second and server of the Gateway API's and of llm-d's endpoint picker."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
MIB: Final = 2**20

FLEET: Final = """
apiVersion: ghostfleet.dev/v1alpha1
kind: SimulatedModelServer
metadata: {{name: scale}}
spec:
  replicas: {servers}
  model: {{name: scale}}
  profile: {{simple: {{timeToFirstToken: 100ms, interTokenLatency: 20ms}}}}
"""

Row = dict[str, Any]


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Scraped:
    """What the scraper saw; `scraper.c` says what each number is."""

    servers: int
    failed: int
    reason: str
    scrapes: int
    skipped: int
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int
    bytes: int
    client_cpu_s: float


def scrape(binary: Path, urls: Sequence[str], per_s: float, seconds: float, warm_up: float = 2.0) -> Scraped:
    """Ask each server `per_s` times a second for its metrics; what is measured begins after `warm_up` seconds.

    Raises:
        BenchError: a server did not answer, or with something else than its metrics.
    """
    places = "".join(f"{urlsplit(url).hostname} {urlsplit(url).port}\n" for url in urls)
    command = [str(binary), str(per_s), str(seconds), str(warm_up)]
    done = subprocess.run(command, input=places, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the scraper ended with {done.returncode}: {done.stderr.strip()}")
    found = Scraped(**json.loads(done.stdout))
    if found.failed:
        raise BenchError(f"{found.failed} of {found.servers} servers could not be scraped: {found.reason}")
    return found


@dataclass(frozen=True, slots=True)
class Used:
    """What the processes of a fleet use: CPU seconds so far, and memory now in bytes, each shared page once."""

    cpu_s: float
    pss: int
    processes: int

    @classmethod
    def of(cls, supervisor: int) -> Used:
        """That of a supervisor and all that descend from it."""
        pids, cpu, pss = family(supervisor), 0, 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu += int(fields[11]) + int(fields[12])
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            pss += next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
        return cls(cpu / TICKS, pss, len(pids))


class Bench:
    """A fleet that runs, and the scraper."""

    def __init__(self, binary: Path, fleet: Fleet, start_s: float) -> None:
        self._binary = binary
        self._fleet = fleet
        self._urls = list(fleet.urls.values())
        self.start_s = start_s

    def rest(self, seconds: float) -> Row:
        """Nothing happens for a while."""
        time.sleep(3)
        before, began = self._used(), time.monotonic()
        time.sleep(seconds)
        used = (self._used().cpu_s - before.cpu_s) / (time.monotonic() - began)
        return {"cores": round(used, 4), "mib": round(before.pss / MIB), "processes": before.processes}

    def scraped(self, servers: int, per_s: float, seconds: float) -> Row:
        """Some of the servers are asked."""
        before, began = self._used(), time.monotonic()
        found = scrape(self._binary, self._urls[:servers], per_s, seconds)
        after, took = self._used(), time.monotonic() - began
        return {
            "servers": servers,
            "per_s": per_s,
            "scrapes_per_s": round(found.scrapes / seconds, 1),
            "skipped_per_s": round(found.skipped / seconds, 1),
            "p50_ms": found.p50_us / 1000,
            "p99_ms": found.p99_us / 1000,
            "p999_ms": found.p999_us / 1000,
            "max_ms": found.max_us / 1000,
            "fleet_cores": round((after.cpu_s - before.cpu_s) / took, 2),
            "client_cores": round(found.client_cpu_s / took, 2),
            "mib": round(after.pss / MIB),
        }

    def most(self, per_s: float, seconds: float, step: int) -> list[Row]:
        """More and more servers are asked, until scrapes come late; every attempt."""
        rows: list[Row] = []
        for servers in range(step, len(self._urls) + 1, step):
            rows.append(self.scraped(servers, per_s, seconds))
            tell(json.dumps(rows[-1]))
            if late(rows[-1]):
                break
        return rows

    def _used(self) -> Used:
        return Used.of(self._fleet.pid)


def late(row: Row) -> bool:
    """Whether scrapes took too long, or some could not even be sent."""
    return bool(row["p99_ms"] > LIMIT_MS or row["skipped_per_s"])


def report(results: Row) -> str:
    """The tables."""
    rest = results["rest"]
    lines = [
        "| servers | processes | ready after, s | MiB | cores at rest |",
        "| --- | --- | --- | --- | --- |",
        f"| {results['servers']} | {rest['processes']} | {results['start_s']} | {rest['mib']} | {rest['cores']:.3f} |",
        "",
        "| servers | scrapes/s each | answered/s | skipped/s | ms: p50 / p99 / p99.9 / max | cores, client | MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['servers']} | {row['per_s']:g} | {row['scrapes_per_s']:.0f} | {row['skipped_per_s']:.0f} "
        f"| {row['p50_ms']:.1f} / {row['p99_ms']:.1f} / {row['p999_ms']:.1f} / {row['max_ms']:.1f} "
        f"| {row['fleet_cores']:.2f} / {row['client_cores']:.2f} | {row['mib']} |"
        for row in (*results["prometheus"], *results["picker"])
    ]
    return "\n".join(lines)


def run(binary: Path, options: argparse.Namespace) -> Row:
    """Start the fleet and measure."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="ghostfleet-bench-") as folder,
        Fleet(
            FLEET.format(servers=options.servers),
            folder=Path(folder),
            timeout=900,
            servers_per_process=options.servers_per_process,
        ) as fleet,
    ):
        bench = Bench(binary, fleet, time.monotonic() - began)
        tell(f"{options.servers} servers are ready after {bench.start_s:.1f} s")
        results: Row = {
            "machine": machine(),
            "servers": options.servers,
            "per_process": options.servers_per_process,
            "start_s": round(bench.start_s, 1),
            "rest": bench.rest(options.seconds),
        }
        tell(f"at rest: {json.dumps(results['rest'])}")
        results["prometheus"] = [bench.scraped(options.servers, options.per_second, options.seconds)]
        tell(json.dumps(results["prometheus"][0]))
        results["picker"] = bench.most(PICKER_PER_S, options.seconds, options.step) if options.step else []
    return results


def main() -> int:
    """Run the bench; the exit code."""
    flags = argparse.ArgumentParser(prog="bench.scale", description=__doc__.partition("\n")[0])
    flags.add_argument("--servers", type=int, default=1000, metavar="N", help="servers of the fleet (1000)")
    flags.add_argument("--servers-per-process", type=int, default=50, metavar="N", help="how they are packed (50)")
    flags.add_argument("--per-second", type=float, default=1.0, metavar="N", help="scrapes of each server (1)")
    flags.add_argument("--seconds", type=float, default=20.0, metavar="S", help="length of each measurement (20)")
    flags.add_argument(
        "--step", type=int, default=20, metavar="N", help="by how many servers the picker's load grows; 0: without (20)"
    )
    options = flags.parse_args()
    if min(options.servers, options.servers_per_process, options.per_second, options.seconds) <= 0 or options.step < 0:
        flags.exit(2, "bench.scale: numbers must be above 0\n")
    try:
        results = run(compiled(cache_folder(), source=SCRAPER), options)
    except (BenchError, FleetError) as error:
        tell(f"bench.scale: {error}")
        return 1
    print(report(results))
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
