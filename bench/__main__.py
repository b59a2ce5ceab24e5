"""`python -m bench`: how much a streamed token costs, how exactly it comes, and the same of another server."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, Never, NoReturn

from bench import profiling, report, streaming
from bench.client import BenchError, cache_folder, compiled
from bench.report import Kind
from bench.servers import OURS, ROOT, Command, Existing

NAME: Final = "ghostfleet"


class Parser(argparse.ArgumentParser):
    """Answers a wrong flag with one line."""

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def streams(text: str) -> list[int]:
    """`64,256` as numbers."""
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def parser() -> Parser:
    """The flags."""
    flags = Parser(prog="bench", description=__doc__, allow_abbrev=False)
    flags.add_argument(
        "--only",
        metavar="KIND",
        choices=[k.value for k in Kind],
        action="append",
        help=f"one of {', '.join(Kind)}; again for more (default: all)",
    )
    flags.add_argument(
        "--streams",
        type=streams,
        default=[64, 256, 512],
        metavar="N,N",
        help="streams at a time in the paced runs (default: 64,256,512)",
    )
    flags.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="turns of each server; medians are told (default: 3)"
    )
    flags.add_argument(
        "--max-tokens",
        type=int,
        default=500,
        metavar="N",
        help="tokens of a request in the paced and unpaced runs (default: 500)",
    )
    flags.add_argument(
        "--window",
        type=float,
        metavar="S",
        help="seconds that are measured (default: until each stream has ended once; 8 unpaced)",
    )
    flags.add_argument(
        "--warm-up",
        type=float,
        default=2.0,
        metavar="S",
        help="seconds before that; all streams begin in its first half",
    )
    flags.add_argument(
        "--command",
        default=OURS,
        metavar="CMD",
        help="another way to start our server; {port}, {ttft} and {itl} are filled in",
    )
    flags.add_argument(
        "--peer-command",
        metavar="CMD",
        help="start a second server and measure it in turn; {port}, {ttft} and {itl} are filled in",
    )
    flags.add_argument(
        "--peer", metavar="URL", help="measure a running server in turn; it must pace at 100 ms and 20 ms"
    )
    flags.add_argument("--peer-pid", type=int, metavar="PID", help="the process of --peer; its children count too")
    flags.add_argument("--peer-name", default="peer", metavar="NAME", help="what the tables call it")
    flags.add_argument(
        "--profile",
        action="store_true",
        help="instead, tell where our server's time goes (default: --only paced --streams 256 --window 60)",
    )
    flags.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the measurements go as JSON (default: bench/results/TIME.json)",
    )
    return flags


def plan_of(flags: Parser, options: argparse.Namespace) -> streaming.Plan:
    """The plan the flags ask for; a combination that makes no sense ends the process with one line."""
    if (
        options.rounds < 1
        or options.max_tokens < 2
        or options.warm_up < 0
        or (options.window is not None and options.window <= 0)
    ):
        flags.error("--rounds must be at least 1, --max-tokens at least 2, --window above 0, --warm-up not below")
    if (options.peer is None) != (options.peer_pid is None):
        flags.error("--peer and --peer-pid go together: the CPU time is that of the process")
    if options.peer and options.peer_command:
        flags.error("give --peer or --peer-command, not both")
    if options.peer_name == NAME:
        flags.error(f"--peer-name {NAME} is what our own server is called")
    if options.profile:
        options.only = options.only or [Kind.PACED]
        options.streams = [256] if options.streams == flags.get_default("streams") else options.streams
        options.window = options.window or 60.0
    kinds = [Kind(name) for name in options.only] if options.only else list(Kind)
    return streaming.Plan(kinds, options.streams, options.rounds, options.max_tokens, options.window, options.warm_up)


def targets_of(options: argparse.Namespace) -> list[streaming.Target]:
    """Our server, and the other one if there is one."""
    targets: list[streaming.Target] = [Command(NAME, options.command, streaming.PACE)]
    if options.peer_command:
        targets.append(Command(options.peer_name, options.peer_command, streaming.PACE))
    elif options.peer:
        targets.append(Existing(options.peer_name, options.peer, options.peer_pid, streaming.PACE))
    return targets


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def stop(number: int, _: FrameType | None) -> Never:
    """End as by Ctrl-C, so that every server that was started is ended."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the bench; the exit code."""
    signal.signal(signal.SIGTERM, stop)
    flags = parser()
    options = flags.parse_args()
    plan = plan_of(flags, options)
    try:
        targets = targets_of(options)
        binary = compiled(cache_folder())
        if options.profile:
            for kind, pace, load in plan.loads():
                print(profiling.profile(binary, options.command, profiling.Subject(kind, pace, load), tell))
        else:
            bench(binary, plan, targets, options)
    except BenchError as error:
        tell(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        tell("bench: interrupted; every server that was started is ended")
        return 130
    return 0


def bench(binary: Path, plan: streaming.Plan, targets: Sequence[streaming.Target], options: argparse.Namespace) -> None:
    """Measure, write the results as JSON, print the tables."""
    machine = streaming.machine()
    minutes = plan.seconds(len(targets)) / 60
    tell(f"{len(plan.loads())} loads, {plan.rounds} rounds, {len(targets)} servers: about {minutes:.0f} minutes")
    scenarios = streaming.run(binary, plan, targets, tell)
    stamp = str(machine["date"]).replace(":", "").partition("+")[0]
    output: Path = options.output or ROOT / "bench" / "results" / f"{stamp}.json"
    results = {
        "machine": machine,
        "ours": options.command,
        "peer": options.peer_command or options.peer,
        "scenarios": report.as_json(scenarios),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(report.markdown(scenarios))
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    tell(f"written to {output}")


if __name__ == "__main__":
    sys.exit(main())
