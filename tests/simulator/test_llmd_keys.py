"""Every key of llm-d-inference-sim that is about time has its effect under its own name, as a flag and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostfleet_simulator.config import LatencyCalculator, SimpleTiming
from ghostfleet_simulator.flags import load

DURATIONS = {
    "time-to-first-token": "time_to_first_token",
    "inter-token-latency": "inter_token_latency",
    "kv-cache-transfer-latency": "kv_cache_transfer_latency",
    "prefill-overhead": "prefill_overhead",
    "prefill-time-per-token": "prefill_time_per_token",
    "prefill-time-std-dev": "prefill_time_std_dev",
    "kv-cache-transfer-time-per-token": "kv_cache_transfer_time_per_token",
    "kv-cache-transfer-time-std-dev": "kv_cache_transfer_time_std_dev",
}
DEVIATIONS = {f"{key}-std-dev": key for key in list(DURATIONS)[:3]}


def timing(*flags: str) -> SimpleTiming:
    loaded = load(["--model", "m", *flags], {})
    assert not loaded.warnings
    return loaded.config.profile.simple


@pytest.mark.parametrize(("key", "field"), DURATIONS.items())
def test_a_duration_is_kept_to_the_microsecond(key: str, field: str) -> None:
    """That program cuts off whole milliseconds."""
    assert getattr(timing(f"--{key}", "1500us"), field).us == 1_500
    assert getattr(timing(f"--{key}=2.5s"), field).us == 2_500_000


@pytest.mark.parametrize(("key", "mean"), DEVIATIONS.items())
def test_a_deviation_below_a_millisecond_counts(key: str, mean: str) -> None:
    field = key.replace("-", "_")
    assert getattr(timing(f"--{mean}", "2ms", f"--{key}", "400us"), field).us == 400


@pytest.mark.parametrize(
    ("name", "calculator"),
    [
        ("", LatencyCalculator.AUTO),
        ("constant", LatencyCalculator.CONSTANT),
        ("per-token", LatencyCalculator.PER_TOKEN),
    ],
)
def test_calculators_have_its_names(name: str, calculator: LatencyCalculator) -> None:
    assert timing(f"--latency-calculator={name}").latency_calculator is calculator


def test_the_load_factor() -> None:
    assert float(timing("--time-factor-under-load", "2.5").time_factor_under_load) == 2.5


def test_its_file_is_read_too(tmp_path: Path) -> None:
    """Flat, with the names of the flags."""
    file = tmp_path / "config.yaml"
    keys = "".join(f"{key}: 3ms\n" for key in DURATIONS) + "".join(f"{key}: 900us\n" for key in DEVIATIONS)
    file.write_text("model: m\ntime-factor-under-load: 2\n" + keys)
    simple = load(["--config", str(file)], {}).config.profile.simple
    assert {getattr(simple, field).us for field in DURATIONS.values()} == {3_000}
    assert {getattr(simple, key.replace("-", "_")).us for key in DEVIATIONS} == {900}
