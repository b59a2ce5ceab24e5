"""From measurements to tables: medians over rounds, ratios within a round. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from bench.client import Errors, Load, Measurement
from bench.scraping import PER_S

MIB: Final = 1 << 20
MOST_NOISE: Final = 0.10
MOST_CLIENT: Final = 0.60


class Kind(StrEnum):
    """What a scenario is about."""

    PACED = "paced"
    UNPACED = "unpaced"
    REQUESTS = "requests"
    WHOLE = "whole"
    SCRAPES = "scrapes"

    @property
    def by_request(self) -> bool:
        """Whether what counts is the cost of a request, not of a token."""
        return self in (Kind.REQUESTS, Kind.WHOLE)


@dataclass(frozen=True, slots=True)
class Run:
    """One server, measured once; `start_s` is its start-up time, None if it ran before."""

    measurement: Measurement
    start_s: float | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load on every server in turn: `rounds` holds, per round, the run of each server by its name."""

    kind: Kind
    load: Load
    rounds: Sequence[Mapping[str, Run]]

    @property
    def names(self) -> list[str]:
        """The servers, in the order in which they were measured."""
        return list(self.rounds[0])

    def values(self, name: str, number: Number) -> list[float]:
        """A server's number in each round, without the rounds that have none."""
        found = (number(round_[name]) for round_ in self.rounds)
        return [value for value in found if value is not None]


Number = Callable[[Run], float | None]
Cell = Callable[[Scenario, str], str]


def cpu_per_token(run: Run) -> float:
    """Server CPU per token, microseconds."""
    return run.measurement.cpu_us_per_token


def cpu_per_request(run: Run) -> float:
    """Server CPU per request, microseconds."""
    return run.measurement.cpu_us_per_request


def cores(run: Run) -> float:
    """Server CPU seconds per second."""
    return run.measurement.server_cpu_s / run.measurement.window_s


def tokens_per_s(run: Run) -> float:
    """Tokens per second."""
    return run.measurement.tokens_per_s


def requests_per_s(run: Run) -> float:
    """Requests per second."""
    return run.measurement.requests_per_s


def merged(run: Run) -> float:
    """Share of the tokens that came in no event of their own, percent."""
    return 100 * run.measurement.merged / run.measurement.tokens


def rss_before(run: Run) -> float:
    """Resident memory before the first request, MiB."""
    return run.measurement.memory_before.rss / MIB


def rss_after(run: Run) -> float:
    """Resident memory under load, MiB."""
    return run.measurement.memory_after.rss / MIB


def pss_after(run: Run) -> float:
    """Proportional memory under load, MiB."""
    return run.measurement.memory_after.pss / MIB


def start(run: Run) -> float | None:
    """Time from start to first answer, seconds."""
    return run.start_s


def _milliseconds(errors: Errors | None, field: str) -> float | None:
    return None if errors is None else float(getattr(errors, field)) / 1000


def gap(field: str) -> Number:
    """A field of the gap error, milliseconds."""
    return lambda run: _milliseconds(run.measurement.gap_error_us, field)


def ttft(field: str) -> Number:
    """A field of the TTFT error, milliseconds."""
    return lambda run: _milliseconds(run.measurement.ttft_error_us, field)


def cell(number: Number, digits: int, sign: str = "") -> Cell:
    """The median over the rounds; a dash where there is none."""

    def text(scenario: Scenario, name: str) -> str:
        values = scenario.values(name, number)
        return f"{median(values):{sign},.{digits}f}" if values else "-"

    return text


def cells(numbers: Sequence[Number], digits: int) -> Cell:
    """Several medians in one cell."""
    return lambda scenario, name: " / ".join(cell(number, digits)(scenario, name) for number in numbers)


def on_time(scenario: Scenario, name: str) -> str:
    """The rate as a percentage of the one that is due."""
    due = scenario.load.expected_rate
    return f"{100 * median(scenario.values(name, tokens_per_s)) / due:.1f}" if due else "-"


def per_scrape(scenario: Scenario, name: str) -> str:
    """CPU that a scrape costs, microseconds: what a server took more with them than without, in each round."""
    calm, scraped = scenario.names
    if name == calm:
        return "-"
    return f"{median((cores(round_[scraped]) - cores(round_[calm])) * 1e6 / PER_S for round_ in scenario.rounds):,.0f}"


STREAMS: Final[tuple[str, Cell]] = ("streams", lambda scenario, _: str(scenario.load.streams))
SERVER: Final[tuple[str, Cell]] = ("server", lambda _, name: name)
RSS: Final[tuple[str, Cell]] = ("RSS at start / under load, MiB", cells([rss_before, rss_after], 0))
CORES: Final[tuple[str, Cell]] = ("cores", cell(cores, 2))

REQUEST_COLUMNS: Final[Sequence[tuple[str, Cell]]] = [
    STREAMS,
    SERVER,
    ("requests/s", cell(requests_per_s, 0)),
    ("CPU per request, us", cell(cpu_per_request, 0)),
    CORES,
    RSS,
]

COLUMNS: Final[Mapping[Kind, Sequence[tuple[str, Cell]]]] = {
    Kind.PACED: [
        STREAMS,
        SERVER,
        ("CPU per token, us", cell(cpu_per_token, 1)),
        (
            "gap error, ms: mean / p50 / p99 / p99.9 / max",
            cells([gap(f) for f in ("mean", "p50", "p99", "p999", "max")], 2),
        ),
        ("drift, ms", cell(gap("mean_signed"), 3, "+")),
        ("TTFT error, ms: mean / p99 / max", cells([ttft(f) for f in ("mean", "p99", "max")], 2)),
        ("tokens/s, % of due", on_time),
        ("merged, %", cell(merged, 1)),
        RSS,
        ("PSS, MiB", cell(pss_after, 0)),
        ("start-up, s", cell(start, 2)),
    ],
    Kind.UNPACED: [
        STREAMS,
        SERVER,
        ("tokens/s", cell(tokens_per_s, 0)),
        ("CPU per token, us", cell(cpu_per_token, 1)),
        CORES,
        ("merged, %", cell(merged, 1)),
        RSS,
    ],
    Kind.REQUESTS: REQUEST_COLUMNS,
    Kind.WHOLE: REQUEST_COLUMNS,
    Kind.SCRAPES: [
        STREAMS,
        SERVER,
        ("CPU per token, us", cell(cpu_per_token, 1)),
        ("CPU per scrape, us", per_scrape),
        ("gap error, ms: mean / p99 / p99.9 / max", cells([gap(f) for f in ("mean", "p99", "p999", "max")], 2)),
        ("merged, %", cell(merged, 1)),
    ],
}

REQUEST_RATIOS: Final[Sequence[tuple[str, Number]]] = [
    ("requests/s", requests_per_s),
    ("CPU per request", cpu_per_request),
    ("RSS under load", rss_after),
]

RATIOS: Final[Mapping[Kind, Sequence[tuple[str, Number]]]] = {
    Kind.PACED: [
        ("CPU per token", cpu_per_token),
        ("gap error, mean", gap("mean")),
        ("gap error, p99", gap("p99")),
        ("TTFT error, mean", ttft("mean")),
        ("RSS under load", rss_after),
    ],
    Kind.UNPACED: [("tokens/s", tokens_per_s), ("CPU per token", cpu_per_token), ("RSS under load", rss_after)],
    Kind.REQUESTS: REQUEST_RATIOS,
    Kind.WHOLE: REQUEST_RATIOS,
    Kind.SCRAPES: [("gap error, mean", gap("mean")), ("gap error, p99", gap("p99"))],
}

TITLES: Final[Mapping[Kind, str]] = {
    Kind.PACED: (
        "Paced: {0.ttft_ms:g} ms to the first token, {0.itl_ms:g} ms between tokens, {0.max_tokens} tokens a request"
    ),
    Kind.UNPACED: "Unpaced: as fast as it can, {0.max_tokens} tokens a request",
    Kind.REQUESTS: "Requests: streams of one token, as fast as it can",
    Kind.WHOLE: "Whole: answers of {0.max_tokens} tokens in one piece, as fast as it can",
    Kind.SCRAPES: f"Scrapes: paced, without and with {PER_S} scrapes a second",
}


def ratios(scenario: Scenario, ours: str, other: str, number: Number) -> list[float]:
    """Ours over the other's in each round, so that whatever slowed a whole round down cancels out."""
    pairs = ((number(round_[ours]), number(round_[other])) for round_ in scenario.rounds)
    return [a / b for a, b in pairs if a is not None and b]


def table(kind: Kind, scenarios: Sequence[Scenario]) -> list[str]:
    """A Markdown table of the scenarios of one kind, a line per load and server."""
    columns = COLUMNS[kind]
    rows = [[text(scenario, name) for _, text in columns] for scenario in scenarios for name in scenario.names]
    heads = [head for head, _ in columns]
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) + " |"
        for row in [heads, *rows]
    ]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]


def ratio_lines(scenario: Scenario, ours: str, other: str) -> list[str]:
    """One line per ratio: its median over the rounds, and the rounds."""
    lines = []
    for what, number in RATIOS[scenario.kind]:
        found = ratios(scenario, ours, other, number)
        if found:
            rounds = " ".join(f"{ratio:.2f}" for ratio in found)
            load = f"{scenario.load.streams} streams" if scenario.kind is Kind.PACED else scenario.kind.value
            lines.append(f"{load}: {what}: {ours} / {other} = {median(found):.2f} (rounds: {rounds})")
    return lines


def doubts(scenarios: Sequence[Scenario]) -> list[str]:
    """What makes the figures less sure than they look: other work on the machine, a busy client, missing usage."""
    found = []
    for scenario in scenarios:
        where = f"{scenario.kind}, {scenario.load.streams} streams"
        for name in scenario.names:
            runs = [round_[name].measurement for round_ in scenario.rounds]
            noise = max((run.other_cpu_s + run.steal_s) / run.window_s for run in runs)
            client = max(run.client_cpu_s / run.window_s for run in runs)
            if noise > MOST_NOISE:
                found.append(
                    f"{where}, {name}: other processes took {noise:.0%} of a core; measure again on a quiet machine"
                )
            if client > MOST_CLIENT and scenario.kind is Kind.PACED:
                found.append(f"{where}, {name}: the client took {client:.0%} of a core and adds to the gap error")
            if any(run.requests_without_usage for run in runs):
                found.append(f"{where}, {name}: the server told no usage; its events are counted as tokens")
    return found


def markdown(scenarios: Sequence[Scenario]) -> str:
    """Tables of all scenarios, then the ratios of the first server to the second, then doubts."""
    blocks: list[str] = []
    for kind in Kind:
        of_kind = [scenario for scenario in scenarios if scenario.kind is kind]
        if of_kind:
            blocks.append(TITLES[kind].format(of_kind[0].load))
            blocks.append("\n".join(table(kind, of_kind)))
    lines = [line for s in scenarios if len(s.names) == 2 for line in ratio_lines(s, s.names[0], s.names[1])]
    if lines:
        blocks.append("\n".join(f"* {line}" for line in lines))
    if doubt := doubts(scenarios):
        blocks.append("\n".join(f"* Doubtful: {line}" for line in doubt))
    return "\n\n".join(blocks) + "\n"


def as_json(scenarios: Sequence[Scenario]) -> list[dict[str, object]]:
    """All measurements and, where there are two servers, the ratios: for a results file."""
    documents = []
    for scenario in scenarios:
        document: dict[str, object] = {
            "kind": scenario.kind.value,
            "load": asdict(scenario.load),
            "rounds": [{name: asdict(run) for name, run in round_.items()} for round_ in scenario.rounds],
        }
        if len(scenario.names) == 2:
            ours, other = scenario.names
            document["ratios"] = {what: ratios(scenario, ours, other, number) for what, number in RATIOS[scenario.kind]}
        documents.append(document)
    return documents
