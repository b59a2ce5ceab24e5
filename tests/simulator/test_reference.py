"""The reference pages are those of the settings and metrics that there are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ghostfleet_simulator.config import ModelSettings, ServerConfig
from ghostfleet_simulator.metrics.recorder import ServerMetrics

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", _ROOT / "tools/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


def test_a_page_that_differs_is_named_and_then_written(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(tmp_path)]
    assert tool.main([*arguments, "--check"]) == 1
    assert "docs/metrics.md: out of date" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert tool.main(arguments) == 0
    assert tool.main([*arguments, "--check"]) == 0


def test_every_family_that_a_server_exposes_is_explained() -> None:
    page = (_ROOT / "docs/metrics.md").read_text()
    metrics = ServerMetrics(ServerConfig(model=ModelSettings(name="m")), with_created=False)
    names = [
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(metrics.render().decode())
    ]
    assert len(names) > 45
    assert [name for name in names if f"| `{name}` |" not in page] == []
