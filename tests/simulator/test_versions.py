"""What a server shows of an older vLLM, boundary by boundary."""

from __future__ import annotations

import pytest
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.preflight import completion
from ghostfleet_simulator.api.requests import CompletionRequest
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.runtime.work import Work
from ghostfleet_simulator.text.tokenizer import Tokenizer
from ghostfleet_simulator.versions import conduct, known


def config(version: str) -> ServerConfig:
    return validated(ServerConfig, {"model": {"name": "m", "maxModelLen": 64}, "engine": {"version": version}})


def families(version: str) -> set[str]:
    lines = ServerMetrics(config(version), with_created=False).render().decode().splitlines()
    return {line.split()[2].removeprefix("vllm:") for line in lines if line.startswith("# TYPE vllm:")}


@pytest.mark.parametrize(
    ("before", "first", "new"),
    [
        ("0.12", "0.13", {"request_prefill_kv_computed_tokens"}),
        (
            "0.15",
            "0.16",
            {"prompt_tokens_by_source_total", "prompt_tokens_cached_total", "prompt_tokens_recomputed_total"},
        ),
        ("0.19", "0.20", {"num_requests_waiting_by_reason"}),
        ("0.31", "0.32", {"admission_rejections_total"}),
        ("0.32", "0.33", {"prompt_tokens_cached_by_source_total", "request_num_preemptions"}),
    ],
)
def test_a_family_comes_with_its_release(before: str, first: str, new: set[str]) -> None:
    assert families(first) - families(before) == new


def test_the_old_name_of_the_latency_between_tokens_ends_with_0_12() -> None:
    old = families("0.12.0")
    assert {"time_per_output_token_seconds", "inter_token_latency_seconds"} <= old
    assert "time_per_output_token_seconds" not in families("0.17")


def test_recomputed_tokens_are_counted_up_to_0_19() -> None:
    assert "prompt_tokens_recomputed_total" in families("0.19.1")
    assert "prompt_tokens_recomputed_total" not in families("0.20")


@pytest.mark.parametrize(("version", "recomputed", "hits"), [("0.17", 1, 33), ("0.33", None, 32)])
def test_a_token_that_was_cached_and_is_computed_again(version: str, recomputed: int | None, hits: int) -> None:
    """The last one of a prompt that is there in whole but for it."""
    metrics = ServerMetrics(config(version), with_created=False)
    seq = Sequence("s", [1] * 33, Answer(1), 0)
    seq.cached_tokens = 32
    step = Step()
    step.tokens, step.first, step.prompt_tokens, step.cached_tokens = [seq], [seq], 33, 32
    metrics.engines[0].on_step(step, 0, running=1, waiting=0, deferred=0, kv_usage=0)
    lines = metrics.render().decode().splitlines()
    told = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("vllm:prompt_tokens_recomputed_total{")]
    assert told == ([] if recomputed is None else [str(recomputed)])
    [hit] = [line for line in lines if "prompt_tokens_by_source_total{" in line and "local_cache_hit" in line]
    assert hit.endswith(f" {hits}")


def test_the_old_name_tells_the_same() -> None:
    metrics = ServerMetrics(config("0.12"), with_created=False)
    metrics.engines[0].measures.inter_token_latency.observe(30_000, 3)
    text = metrics.render().decode()
    labels = '{engine="0",model_name="m"}'
    assert f"vllm:time_per_output_token_seconds_count{labels} 3\n" in text
    assert f"vllm:inter_token_latency_seconds_count{labels} 3\n" in text


def judged(version: str, tokenizer: Tokenizer, **body: object) -> Work | ApiError:
    try:
        return completion(CompletionRequest.model_validate(body), Facts.of(config(version), tokenizer), {})
    except ApiError as error:
        return error


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.mark.parametrize(("prompt", "at_least"), [(40, ""), (35, "at least ")])
def test_up_to_0_31_prompt_and_answer_must_fit_together(prompt: int, at_least: str, tokenizer: Tokenizer) -> None:
    """The same request is served from 0.32 on, with fewer tokens than it asked for."""
    error = judged("0.31.9", tokenizer, prompt=[5] * prompt, max_tokens=30)
    assert isinstance(error, ApiError)
    assert (error.status, error.type, error.param) == (400, "BadRequestError", "input_tokens")
    assert error.message == (
        "This model's maximum context length is 64 tokens. However, you requested 30 output tokens and your prompt "
        f"contains {at_least}{prompt} input tokens, for a total of {at_least}{prompt + 30} tokens. Please reduce the "
        f"length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value={prompt})"
    )
    work = judged("0.32", tokenizer, prompt=[5] * prompt, max_tokens=30)
    assert isinstance(work, Work)
    assert work.prompts[0].sampling.max_tokens == 64 - prompt


def test_up_to_0_31_what_fits_is_served(tokenizer: Tokenizer) -> None:
    work = judged("0.31", tokenizer, prompt=[5] * 34, max_tokens=30)
    assert isinstance(work, Work)
    assert work.prompts[0].sampling.max_tokens == 30


@pytest.mark.parametrize(("version", "hint"), [("0.31", ""), ("0.32", " Valid aliases: m.")])
def test_the_names_there_are_are_told_since_0_32(version: str, hint: str, tokenizer: Tokenizer) -> None:
    error = judged(version, tokenizer, prompt="x", model="y")
    assert isinstance(error, ApiError)
    assert error.message == f"The model `y` does not exist.{hint}"


@pytest.mark.parametrize(
    ("switch", "before", "first"),
    [
        ("reset_says_success", "0.25", "0.26"),
        ("fixed_hash_seed", "0.28", "0.29"),
        ("tagged_extra_keys", "0.30", "0.31"),
        ("has_kv_event_sources", "0.30", "0.31"),
    ],
)
def test_a_switch_turns_at_its_release(switch: str, before: str, first: str) -> None:
    assert not getattr(conduct(before), switch)
    assert getattr(conduct(first), switch)


@pytest.mark.parametrize(
    ("version", "expected"), [("0.11.9", False), ("0.12", True), ("0.33.7", True), ("0.34", False)]
)
def test_the_range_of_known_versions(version: str, expected: bool) -> None:
    assert known(version) is expected
