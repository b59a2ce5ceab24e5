"""vLLM's flags for LoRA adapters, in its forms and in llm-d-inference-sim's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostfleet_simulator.config import Lora, LoraAdapter, ServerConfig
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.problems import InvalidInput


def config(*argv: str, **environ: str) -> ServerConfig:
    return load(["--model", "m", *argv], environ).config


def test_the_flags_are_those_of_vllm() -> None:
    """Both forms of an adapter beside each other; a path may hold `=`, a JSON object what means nothing here."""
    found = config(
        *("--enable-lora", "--max-loras", "2", "--max-cpu-loras=4", "--max_lora_rank", "64", "--lora-modules"),
        *("sql=s3://bucket?a=b", '{"name": "law", "path": "/law", "base_model_name": "m", "is_3d_lora_weight": true}'),
    )
    adapters = (
        LoraAdapter(name="sql", path="s3://bucket?a=b"),
        LoraAdapter(name="law", path="/law", base_model_name="m"),
    )
    assert found.lora == Lora(enabled=True, max_loras=2, max_cpu_loras=4, max_lora_rank=64, adapters=adapters)


def test_a_command_line_of_llmd_has_no_switch_and_no_paths() -> None:
    """There are adapters, so LoRA is on."""
    found = config("--max-loras", "1", "--lora-modules", '{"name":"a"}', '{"name":"b","path":"/b"}', "")
    assert [(adapter.name, adapter.path) for adapter in found.lora.adapters] == [("a", None), ("b", "/b")]
    assert found.lora.on


@pytest.mark.parametrize(
    ("argv", "on"),
    [([], False), (["--enable-lora"], True), (["--no-enable-lora"], False), (["--lora-modules", "a=/a"], True)],
)
def test_lora_is_on_when_asked_for_or_when_there_are_adapters(argv: list[str], on: bool) -> None:
    """`vllm:lora_requests_info` and the load route go by it."""
    assert config(*argv).lora.on is on


def test_adapters_stand_in_a_file_of_flags(tmp_path: Path) -> None:
    """llm-d-inference-sim has a list of JSON strings there."""
    path = tmp_path / "sim.yaml"
    path.write_text('model: m\nmax-loras: 2\nlora-modules:\n- \'{"name": "a", "path": "/a"}\'\n- b=/b\n')
    adapters = load(["--config", str(path)], {}).config.lora.adapters
    assert [(adapter.name, adapter.path) for adapter in adapters] == [("a", "/a"), ("b", "/b")]


@pytest.mark.parametrize(("value", "allowed"), [("1", True), ("True", True), ("0", False), ("", False)])
def test_vllms_variable_allows_updates_at_runtime(value: str, allowed: bool) -> None:
    """As it allows them in vLLM."""
    assert config(VLLM_ALLOW_RUNTIME_LORA_UPDATING=value).http.allow_runtime_lora_updating is allowed


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--lora-modules", "a"], "--lora-modules: 'a' is neither name=path nor a JSON object"),
        (["--lora-modules", "a=/a,b=/b"], "--lora-modules: 'a=/a,b=/b' is neither name=path nor a JSON object"),
        (
            ["--lora-modules", '{"name": "a", "rank": 8}'],
            (
                '--lora-modules: {"name": "a", "rank": 8} must be an object with a name; its fields can be name, path, '
                "base_model_name, is_3d_lora_weight"
            ),
        ),
        (["--lora-modules", "m=/a"], "--lora-modules: name: 'm' is a served name of the base model"),
        (["--lora-modules", "a=/a", "a=/b"], "--lora-modules: the names must differ from each other, not 'a=/a a=/b'"),
        (["--lora-modules", "=/a"], "--lora-modules: name: String should have at least 1 character"),
        (["--max-loras", "3", "--max-cpu-loras", "2"], "--max-cpu-loras: 2 is below maxLoras=3"),
        (["--max-lora-rank", "24"], "--max-lora-rank: 24 is not one of 1, 8, 16, 32, 64, 128, 256, 320, 512"),
        (["--no-enable-lora", "--lora-modules", "a=/a"], "--enable-lora: is false, and there are adapters"),
    ],
)
def test_what_cannot_be_is_one_line(argv: list[str], line: str) -> None:
    """It names the flag and what is wrong with it."""
    with pytest.raises(InvalidInput) as caught:
        config(*argv)
    assert [str(problem) for problem in caught.value.problems] == [line]
