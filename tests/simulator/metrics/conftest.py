"""A server's metrics with a clock of their own, and how to read them as a scraper does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ghostfleet_simulator.config import ModelSettings, ServerConfig
from ghostfleet_simulator.metrics.recorder import ServerMetrics

Value = Callable[..., float]


@pytest.fixture
def metrics() -> ServerMetrics:
    config = ServerConfig(model=ModelSettings(name="org/model", served_names=("m", "alias"), max_model_len=4096))
    return ServerMetrics(config, now=lambda: 1_790_470_234.5, with_created=True)


@pytest.fixture
def value(metrics: ServerMetrics) -> Value:
    """`value(name, **labels)`: the one sample of that name with at least these labels."""

    def read(name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in text_string_to_metric_families(metrics.render().decode())
            for sample in family.samples
            if sample.name == name and _within(labels, sample.labels)
        ]
        assert len(found) == 1, f"{len(found)} samples of {name} with {labels}"
        return found[0]

    return read


def _within(some: Mapping[str, str], all_of_them: Mapping[str, str]) -> bool:
    return some.items() <= all_of_them.items()
