"""The settings of a server: defaults, limits and the marks that say where a field may be set."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from ghostfleet_simulator.config import (
    LIVE_FIELDS,
    TYPED_ERRORS,
    Flag,
    LiveConfig,
    ServerConfig,
    Settings,
)
from ghostfleet_simulator.descriptions import describe
from ghostfleet_simulator.problems import InvalidInput, validated


def _config(**blocks: Any) -> ServerConfig:
    return validated(ServerConfig, {"model": {"name": "m"}, **blocks})


def test_a_name_is_all_a_server_needs() -> None:
    config = _config()
    assert config.model.aliases == ("m",)
    assert config.listen.port == 8000
    assert config.limits == (256, 2048)
    assert config.kv_cache.block_size == 16
    assert config.failures == ()


def test_served_names_replace_the_name_in_requests() -> None:
    config = _config(model={"name": "org/m", "servedNames": ["a", "b"]})
    assert config.model.aliases == ("a", "b")


def test_what_is_live_is_what_a_live_document_holds() -> None:
    assert set(LIVE_FIELDS) == {info.alias for info in LiveConfig.model_fields.values()}
    assert set(LIVE_FIELDS) == {"profile", "failures", "failureHeaders", "answers", "fakeMetrics", "lora"}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"kvCache": {"blocks": 100}}, "at least 2049 are needed"),
        ({"model": {"name": "m", "servedNames": ["a", "a"]}}, "the names must differ"),
        ({"listen": {"port": 9000, "adminPort": 9000}}, "listen.adminPort: 9000 is already the port of the API"),
        ({"profile": {"simple": {"tick": "1us"}}}, "1us is not between 10us and 1s"),
        ({"profile": {"simple": {"timeFactorUnderLoad": "0.5"}}}, "0.5 is below 1"),
        ({"profile": {"simple": {"timeToFirstTokenStdDev": 1}}}, "too large for a mean of 0ms"),
        (
            {"failures": [{"type": t.value, "probability": "0.2"} for t in TYPED_ERRORS]},
            "the probabilities add up to 1.2, more than 1",
        ),
        ({"failures": [{"type": "RateLimit", "probability": "0.2"}] * 2}, "RateLimit is listed twice"),
        ({"seed": 2**63}, "seed: "),
        ({"scheduling": {"maxNumSeqs": 0}}, "scheduling.maxNumSeqs: "),
        ({"scheduling": {"watermark": "1"}}, "scheduling.watermark: 1 is not below 1"),
        (
            {"scheduling": {"enableChunkedPrefill": False, "maxNumBatchedTokens": 100}},
            "scheduling.maxNumBatchedTokens: 100 is below model.maxModelLen=32768",
        ),
        ({"engine": {"version": "0.34.0"}}, "0.34.0 is not a version of vLLM whose behaviour is known: 0.12 to 0.33.0"),
        ({"engine": {"version": "0.11"}}, "0.11 is not a version of vLLM"),
        ({"engine": {"version": "newest"}}, "engine.version: "),
    ],
)
def test_what_cannot_be_is_refused(blocks: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        _config(**blocks)


@pytest.mark.parametrize(
    ("gpu", "scheduling", "limits"),
    [
        (None, {}, (256, 2048)),
        ("H100", {}, (1024, 8192)),
        ("H100-SXM", {}, (1024, 8192)),
        ("NVIDIA-H200-141GB-HBM3e", {}, (1024, 8192)),
        ("B200", {}, (1024, 16384)),
        ("A100-SXM", {}, (256, 2048)),
        ("L40S", {}, (256, 2048)),
        ("Abacus-1", {}, (256, 2048)),
        ("H100", {"maxNumSeqs": 9}, (9, 8192)),
        ("H100", {"maxNumBatchedTokens": 512}, (512, 512)),
        ("H100", {"maxNumBatchedTokens": 512, "maxNumSeqs": 600}, (600, 512)),
        (None, {"maxNumSeqs": 1}, (1, 1000)),
        (None, {"maxNumSeqs": 1, "maxNumBatchedTokens": 2048}, (1, 2048)),
        ("H100", {"enableChunkedPrefill": False}, (1024, 8192)),
    ],
)
def test_the_limits_of_a_step_are_vllms_for_the_gpu(
    gpu: str | None, scheduling: dict[str, Any], limits: tuple[int, int]
) -> None:
    """What is given wins; what is not goes by the GPU's memory and is cut down to what the sequences can need."""
    config = _config(model={"name": "m", "maxModelLen": 1000}, engine={"gpu": gpu}, scheduling=scheduling)
    assert config.limits == limits


def test_without_chunked_prefill_a_step_holds_the_longest_prompt() -> None:
    config = _config(model={"name": "m", "maxModelLen": 30_000}, scheduling={"enableChunkedPrefill": False})
    assert config.limits.max_num_batched_tokens == 30_000


@pytest.mark.parametrize(("version", "tagged"), [("0.12", False), ("0.30.9", False), ("0.31", True), ("0.33.0", True)])
def test_a_version_is_known_by_its_release(version: str, tagged: bool) -> None:
    assert _config(engine={"version": version}).engine.conduct.tagged_extra_keys is tagged


def test_a_cache_that_holds_exactly_one_sequence_is_enough() -> None:
    config = _config(model={"name": "m", "maxModelLen": 160}, kvCache={"blockSize": 16, "blocks": 11})
    assert config.kv_cache.blocks == 11


def test_probabilities_that_add_up_to_one_are_accepted() -> None:
    thirds = ["33.3333333%", "33.3333333%", "33.3333334%"]
    types = ["RateLimit", "ServerError", "ContextLength"]
    config = _config(failures=[{"type": t, "probability": p} for t, p in zip(types, thirds, strict=True)])
    assert sum(float(failure.probability) for failure in config.failures) == pytest.approx(1)


def _fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> list[tuple[type[BaseModel], str]]:
    if model in seen:
        return []
    seen.add(model)
    found = []
    for name, info in model.model_fields.items():
        found.append((model, name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += _fields(info.annotation, seen)
    return found


@pytest.mark.parametrize(
    ("model", "name"), _fields(ServerConfig, set()), ids=lambda part: getattr(part, "__name__", part)
)
def test_every_setting_says_what_it_is(model: type[BaseModel], name: str) -> None:
    assert issubclass(model, Settings)
    describe(model)
    assert (model.model_fields[name].description or "").strip().endswith(".")


def test_no_two_settings_share_a_flag() -> None:
    flags = [
        mark.name
        for model, name in _fields(ServerConfig, set())
        for mark in model.model_fields[name].metadata
        if isinstance(mark, Flag)
    ]
    assert len(flags) > 15
    assert len(set(flags)) == len(flags)


def test_settings_do_not_change_under_a_running_server() -> None:
    with pytest.raises(ValueError, match="frozen"):
        _config().listen.port = 1  # type: ignore[misc]  # the assignment is the point
