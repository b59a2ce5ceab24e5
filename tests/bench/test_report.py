"""Tables and ratios say what the measurements say."""

from __future__ import annotations

import pytest
from bench.client import Errors, Load, Measurement, Memory
from bench.report import Kind, Run, Scenario, as_json, cpu_per_token, doubts, gap, markdown, ratios

LOAD = Load.paced(256, max_tokens=500, ttft_ms=100, itl_ms=20)
MIB = 1 << 20


def run(cpu: float, *, error: float = 0.5, other: float = 0.0, client: float = 0.1, without_usage: int = 0) -> Run:
    """A server that takes `cpu` microseconds for each of 100,000 tokens in 8 s; `error` in milliseconds."""
    us = int(error * 1000)
    errors = Errors(100_000, us, us, us, 2 * us, 3 * us, 4 * us)
    measurement = Measurement(
        streams=256,
        window_s=8.0,
        tokens=100_000,
        events=99_000,
        merged=1_000,
        requests=256,
        requests_without_usage=without_usage,
        server_cpu_s=cpu / 10,
        client_cpu_s=client * 8,
        other_cpu_s=other * 8,
        steal_s=0.0,
        memory_before=Memory(30 * MIB, 20 * MIB),
        memory_after=Memory(60 * MIB, 50 * MIB),
        gap_error_us=errors,
        ttft_error_us=errors,
    )
    return Run(measurement, 0.5)


def scenario(*rounds: tuple[Run, Run], kind: Kind = Kind.PACED) -> Scenario:
    return Scenario(kind, LOAD, [{"a": a, "b": b} for a, b in rounds])


def test_ratios_are_taken_within_a_round() -> None:
    """A round that was slow for both servers gives the same ratio as a quick one."""
    found = scenario((run(10), run(20)), (run(30), run(60)), (run(12), run(20)))
    assert ratios(found, "a", "b", cpu_per_token) == pytest.approx([0.5, 0.5, 0.6])


def test_a_scrape_costs_what_the_server_took_more_in_the_same_round() -> None:
    """0.06 cores for 60 scrapes a second are 1 ms each; the median of the rounds is told, beside the scraped run."""
    text = markdown([scenario((run(4.8), run(9.6)), (run(48), run(52.8)), (run(1), run(99)), kind=Kind.SCRAPES)])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    calm, scraped = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
    assert (calm["CPU per scrape, us"], scraped["CPU per scrape, us"]) == ("-", "1,000")


def test_a_ratio_to_nothing_is_left_out() -> None:
    """A round in which the other server was never late has no ratio."""
    found = scenario((run(1, error=1), run(1, error=0)), (run(1, error=1), run(1, error=4)))
    assert ratios(found, "a", "b", gap("mean")) == [0.25]


def test_the_report_tells_medians_and_every_rounds_ratio() -> None:
    """One row per server with its medians, one line per ratio with its rounds."""
    text = markdown([scenario((run(10), run(20)), (run(11), run(20)), (run(99), run(20)))])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    ours, other = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
    assert ours["server"] == "a"
    assert ours["CPU per token, us"] == "11.0"
    assert other["CPU per token, us"] == "20.0"
    assert ours["gap error, ms: mean / p50 / p99 / p99.9 / max"] == "0.50 / 0.50 / 1.00 / 1.50 / 2.00"
    assert ours["RSS at start / under load, MiB"] == "30 / 60"
    assert ours["merged, %"] == "1.0"
    assert ours["tokens/s, % of due"] == f"{100 * 12_500 / (256 * 500 / 10.08):.1f}"
    assert "* 256 streams: CPU per token: a / b = 0.55 (rounds: 0.50 0.55 4.95)" in text


def test_a_server_alone_has_a_table_and_no_ratios() -> None:
    """Without a second server there is nothing to compare."""
    alone = Scenario(Kind.PACED, LOAD, [{"a": run(10)}])
    assert " / b" not in markdown([alone])
    assert "ratios" not in as_json([alone])[0]


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_load_has_its_table(kind: Kind) -> None:
    """Every column of every table can be filled from a measurement."""
    text = markdown([scenario((run(10), run(20)), kind=kind)])
    assert text.count("\n| 256") == 2
    assert "nan" not in text


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (run(10, other=0.5), "other processes took 50% of a core"),
        (run(10, client=0.9), "the client took 90% of a core"),
        (run(10, without_usage=1), "told no usage"),
    ],
)
def test_what_spoils_a_measurement_is_told(one: Run, words: str) -> None:
    """One bad round is enough, and only the server it spoiled is named."""
    found = doubts([scenario((run(10), run(10)), (one, run(10)))])
    assert len(found) == 1
    assert words in found[0]
    assert ", a: " in found[0]


def test_a_quiet_run_has_no_doubts() -> None:
    """Nothing is said that need not be."""
    assert doubts([scenario((run(10), run(20)))]) == []
