"""The laws of step times: worked examples, limits, and that a table of a law's values gives back the law."""

from __future__ import annotations

from math import inf, isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import Profile, RooflineTiming, ServerConfig, StepTimeTiming, TableTiming
from ghostfleet_simulator.config.roofline import gpus, model_geometries
from ghostfleet_simulator.engine.roofline import ModelSize, RooflineTimer
from ghostfleet_simulator.engine.steps import StepFeatures
from ghostfleet_simulator.engine.steptime import StepTimeTimer, soft_maximum
from ghostfleet_simulator.engine.table import TableTimer
from ghostfleet_simulator.problems import InvalidInput, validated

GEOMETRY = {
    # billions of parameters, billions used by a token (no input embedding), KiB of KV cache per token in 16 bits
    "Llama-3.1-8B": (8.0, 7.5, 128),
    "Llama-3.1-70B": (70.6, 69.5, 320),
    "Llama-2-7B": (6.7, 6.6, 512),
    "Llama-2-70B": (69.0, 68.7, 320),
    "CodeLlama-34B": (33.7, 33.5, 192),
    "Yi-34B": (34.4, 33.9, 240),
    "Mistral-Nemo-12B": (12.2, 11.6, 160),
    "Qwen2.5-7B": (7.6, 7.1, 56),
    "Qwen3-14B": (14.8, 14.0, 160),
    "Qwen3-32B": (32.8, 32.0, 256),
    "Qwen3-30B-A3B": (30.5, 3.0, 96),
    "Mixtral-8x7B": (46.7, 12.7, 128),
    "Mixtral-8x22B": (140.6, 39.0, 224),
    "Llama-4-Scout": (107.8, 16.1, 192),
}


def roofline(**numbers: Any) -> RooflineTimer:
    tree = {"model": "Llama-3.1-8B", "gpu": "H100-SXM", **numbers}
    return RooflineTimer(RooflineTiming.model_validate(tree))


def test_the_worked_example_of_the_documentation() -> None:
    """A step with a prompt of 512 tokens and 16 decodes of 1,000 tokens each, term by term."""
    timer = StepTimeTimer(
        StepTimeTiming.model_validate(
            {
                "weightReadUs": 5100,
                "perTokenUs": 22,
                "baseUs": 2180,
                "perSeqUs": 14,
                "perCtxTokenUs": "0.041",
                "perAttnWorkUs": "0.0011",
                "perPrefillReqUs": 80,
                "mixedStepUs": 300,
            }
        )
    )
    decode = StepFeatures(decodes=16, decode_context=16_000)
    assert isclose(timer.step_us(decode), (5100**2 + 352**2) ** 0.5 + 2180 + 224 + 656)
    mixed = StepFeatures(512, 512 * 256.0, 1, 16, 16_000)
    lin = (5100**2 + (22 * 528) ** 2) ** 0.5
    assert isclose(timer.step_us(mixed), lin + 2180 + 14 * 17 + 656 + 0.0011 * 131_072 + 80 + 300)
    assert round(timer.step_us(decode)) == 8172
    assert round(timer.step_us(mixed)) == 16284


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 64))
def test_the_soft_maximum_lies_between_the_greater_and_the_sum(one: float, other: float, exponent: float) -> None:
    """It is the sum at 1, comes to the greater one with the exponent, and never overflows."""
    value = soft_maximum(one, other, exponent)
    assert max(one, other) * (1 - 1e-12) <= value <= (one + other) * (1 + 1e-12) < inf
    assert isclose(soft_maximum(one, other, 1), one + other)
    assert value <= max(one, other) * 2 ** (1 / exponent) * (1 + 1e-9)


@pytest.mark.parametrize("name", GEOMETRY)
def test_shapes_have_the_sizes_their_makers_publish(name: str) -> None:
    """Parameters, parameters per token, and KV cache per token."""
    size = ModelSize(model_geometries()[name])
    total, active, kv = GEOMETRY[name]
    assert round(size.total / 1e9, 1) == total
    assert round((size.active + size.head) / 1e9, 1) == active
    assert size.kv_per_token * 2 == kv * 1024


def test_every_shipped_model_runs_on_every_shipped_gpu() -> None:
    """Steps are finite and longer on slower memory; a prompt costs more than a decode."""
    assert model_geometries().keys() == GEOMETRY.keys()
    for model in model_geometries():
        steps = {}
        for gpu in gpus():
            timer = roofline(model=model, gpu=gpu, tensorParallel=4)
            decode = timer.step_us(StepFeatures(decodes=1, decode_context=1000))
            prompt = timer.step_us(StepFeatures(2000, 2_000_000.0, 1))
            assert 0 < decode < prompt < inf
            steps[gpu] = decode
        assert steps["H200-SXM"] < steps["H100-SXM"] < steps["A100-SXM"] < steps["L4"]


def test_eight_billion_parameters_on_one_h100_by_hand() -> None:
    """One decode: 15 GB at 3.35 TB/s times 0.91, 32 layers of 52 us, and the rest."""
    active = 32 * 218_103_808 + 128_256 * 4096
    read = active * 2 / (3350e9 * 0.91) * 1e6
    products = active * 2 / (989e12 * 0.65) * 1e6
    kv = 1000 * 131_072 / (3350e9 * 0.97) * 1e6
    expected = (read**2 + products**2) ** 0.5 + kv + 530 + 32 * 52 + 24
    assert isclose(roofline().step_us(StepFeatures(decodes=1, decode_context=1000)), expected, rel_tol=1e-6)


def test_precision_and_parallelism_tell() -> None:
    """Half the bytes and twice the GPUs read faster; more GPUs than key-value heads do not read keys faster."""
    decode = StepFeatures(decodes=64, decode_context=64_000)
    assert roofline(weights="FP8").step_us(decode) < roofline().step_us(decode)
    assert roofline(weights="INT4").step_us(decode) < roofline(weights="FP8").step_us(decode)
    assert roofline(tensorParallel=2).step_us(decode) < roofline().step_us(decode)
    assert roofline(kvCacheDtype="FP8").step_us(decode) < roofline().step_us(decode)
    no_overhead = {"allReduceUs": 0, "layerUs": 0, "stepUs": 0, "seqUs": 0}
    long = StepFeatures(decodes=1, decode_context=1_000_000)
    eight, sixteen = (
        roofline(tensorParallel=gpus, overheads=no_overhead, memoryFactor=1).step_us(long)
        - roofline(tensorParallel=gpus, overheads=no_overhead).step_us(StepFeatures(decodes=1))
        for gpus in (8, 16)
    )
    assert isclose(eight, sixteen, rel_tol=1e-6)
    slow = roofline(memoryFactor="1.15").step_us(decode)
    assert roofline().step_us(decode) < slow < 1.15 * roofline().step_us(decode)


def test_experts_are_read_when_they_are_used() -> None:
    """One token of Mixtral reads two experts of eight; 64 tokens read nearly all of them."""
    timer = roofline(model="Mixtral-8x7B", tensorParallel=2, overheads={"moeExpertLayerUs": 0, "seqUs": 0})
    one, many = timer.step_us(StepFeatures(decodes=1)), timer.step_us(StepFeatures(decodes=64))
    size = ModelSize(model_geometries()["Mixtral-8x7B"])
    per_expert = size.expert * 32 * 2 / (2 * 3350e9 * 0.91) * 1e6
    assert isclose(many - one, 6 * per_expert, rel_tol=0.02)


def grid(timer: RooflineTimer, lengths: tuple[int, ...], batches: tuple[int, ...]) -> TableTimer:
    """A table measured on a roofline."""
    contexts = (0, 512, 2048)
    return TableTimer(
        TableTiming.model_validate(
            {
                "prefill": [
                    {
                        "tokens": t,
                        "context": c,
                        "time": f"{round(timer.step_us(StepFeatures(t, t * (c + t / 2), 1)) * 1000)}ns",
                    }
                    for t in lengths
                    for c in contexts
                ],
                "decode": [
                    {
                        "sequences": n,
                        "context": c,
                        "time": f"{round(timer.step_us(StepFeatures(decodes=n, decode_context=n * c)) * 1000)}ns",
                    }
                    for n in batches
                    for c in contexts
                ],
            }
        )
    )


def test_a_table_of_measured_steps_gives_them_back_and_interpolates_between_them() -> None:
    """Exact at its points; within 2 % of the law between and beyond them; within 5 % for mixed steps."""
    law = roofline()
    table = grid(law, (64, 256, 512, 1024, 2048, 4096), (1, 16, 64, 128, 256))
    at = StepFeatures(decodes=64, decode_context=64 * 512)
    assert isclose(table.step_us(at), law.step_us(at), rel_tol=1e-6)
    for work, tolerance in (
        (StepFeatures(decodes=40, decode_context=40 * 1000), 0.02),
        (StepFeatures(decodes=300, decode_context=300 * 3000), 0.02),
        (StepFeatures(700, 700 * (900 + 350.0), 1), 0.02),
        (StepFeatures(5000, 5000 * 2500.0, 1), 0.02),
        (StepFeatures(600, 2 * 300 * 150.0, 2, 32, 32 * 800), 0.05),
    ):
        assert isclose(table.step_us(work), law.step_us(work), rel_tol=tolerance), work


def test_a_clamped_table_stays_at_its_ends() -> None:
    """And a linear one goes on; neither ever gives a negative time."""
    points: dict[str, Any] = {
        "prefill": [{"tokens": 100, "time": "10ms"}],
        "decode": [{"sequences": n, "context": 100, "time": f"{n}ms"} for n in (1, 2)],
    }

    def decode(sequences: int, context: int, extrapolate: str) -> float:
        timer = TableTimer(TableTiming.model_validate({**points, "extrapolate": extrapolate}))
        return timer.step_us(StepFeatures(decodes=sequences, decode_context=sequences * context))

    assert decode(10, 100, "Clamp") == 2_000
    assert decode(10, 100, "Linear") == 10_000
    mixed = TableTimer(TableTiming.model_validate(points)).step_us(StepFeatures(100, 5000.0, 1, 2, 200))
    assert mixed == 11_000


@pytest.mark.parametrize(
    ("profile", "path", "words"),
    [
        ({"backend": "StepTime"}, "profile.stepTime", "required with the backend StepTime"),
        ({"backend": "Roofline"}, "profile.roofline", "required"),
        ({"backend": "Table"}, "profile.table", "required"),
        ({"stepTime": {"softMax": "0.5"}}, "profile.stepTime.softMax", "not from 1 to 64"),
        ({"stepTime": {"baseUs": 1.5}}, "profile.stepTime.baseUs", "decimal string"),
        ({"roofline": {"gpu": "L4"}}, "profile.roofline.model", "exactly one of model and geometry; neither"),
        ({"roofline": {"model": "Llama-3.1-8b", "gpu": "L4"}}, "profile.roofline.model", "mean 'Llama-3.1-8B'"),
        ({"roofline": {"model": "Qwen3-14B", "gpu": "MI300X"}}, "profile.roofline.gpu", "known are H100-SXM"),
        (
            {"roofline": {"model": "Qwen3-14B", "gpu": "L4", "efficiency": {"link": "1.5"}}},
            "profile.roofline.efficiency.link",
            "at most 1",
        ),
        (
            {"roofline": {"model": "Qwen3-14B", "gpu": "L4", "hardware": {"tflops16": 1, "memoryGBps": 1}}},
            "profile.roofline.gpu",
            "both",
        ),
        (
            {
                "table": {
                    "prefill": [{"tokens": 1, "time": 1}],
                    "decode": [
                        {"sequences": 1, "context": 1, "time": 1},
                        {"sequences": 2, "context": 2, "time": 1},
                    ],
                }
            },
            "profile.table.decode",
            "no point for sequences=1, context=2",
        ),
        ({"noise": {"request": {"cv": "2"}}}, "profile.noise.request.cv", "at most 1"),
        ({"api": {"asyncSteps": 2}}, "profile.api.asyncSteps", "less than or equal to 1"),
    ],
)
def test_wrong_numbers_are_named(profile: dict[str, Any], path: str, words: str) -> None:
    """The path of the field, what is wrong and what is allowed."""
    with pytest.raises(InvalidInput) as caught:
        validated(ServerConfig, {"model": {"name": "m"}, "profile": profile})
    problem = caught.value.problems[0]
    assert problem.path == path
    assert words in problem.message


def test_a_geometry_of_ones_own_is_as_good_as_a_shipped_one() -> None:
    """The same numbers give the same steps."""
    shape = model_geometries()["Llama-3.1-8B"].model_dump(by_alias=True)
    device = gpus()["H100-SXM"].model_dump(mode="json", by_alias=True)
    own = RooflineTimer(RooflineTiming.model_validate({"geometry": shape, "hardware": device}))
    work = StepFeatures(100, 5000.0, 1, 10, 10_000)
    assert own.step_us(work) == roofline().step_us(work)
    assert Profile.model_validate({"backend": "Roofline", "roofline": {"geometry": shape, "gpu": "L4"}})
