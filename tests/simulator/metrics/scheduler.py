"""How llm-d's endpoint picker reads `/metrics`: its rules, and what it looks for by engine (contracts/schedulers.md 2).

A sample counts only under a `# TYPE` of its family. Of several series the first with the labels of the specification
holds. Numbers of requests and of blocks are cut to whole numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Labels = dict[str, str]
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


_ANY: Labels = {}


class Spec(NamedTuple):
    """What to read: a family, with some labels; where the value is that of a label, its name."""

    family: str
    labels: Labels = _ANY
    label: str = ""


class Picture(NamedTuple):
    """What the picker knows of a server."""

    waiting: int | None
    running: int | None
    kv_usage: float | None
    block_size: int | None
    blocks: int | None


_TRT = "nv_trt_llm_request_metrics"
_KV = "nv_trt_llm_kv_cache_block_metrics"
SPECS: dict[str, tuple[Spec | None, ...]] = {
    "vllm": (
        Spec("vllm:num_requests_waiting"),
        Spec("vllm:num_requests_running"),
        Spec("vllm:kv_cache_usage_perc"),
        Spec("vllm:cache_config_info", label="block_size"),
        Spec("vllm:cache_config_info", label="num_gpu_blocks"),
    ),
    "sglang": (
        Spec("sglang:num_queue_reqs"),
        Spec("sglang:num_running_reqs"),
        Spec("sglang:token_usage"),
        Spec("sglang:cache_config_info", label="page_size"),
        Spec("sglang:cache_config_info", label="num_pages"),
    ),
    "trtllm-serve": (
        Spec("trtllm_num_requests_waiting"),
        Spec("trtllm_num_requests_running"),
        Spec("trtllm_kv_cache_utilization"),
        Spec("trtllm_kv_cache_tokens_per_block"),
        Spec("trtllm_kv_cache_max_blocks"),
    ),
    "triton-tensorrt-llm": (
        Spec(_TRT, {"request_type": "waiting"}),
        Spec(_TRT, {"request_type": "scheduled"}),
        Spec(_KV, {"kv_cache_block_type": "fraction"}),
        Spec(_KV, {"kv_cache_block_type": "tokens_per"}),
        Spec(_KV, {"kv_cache_block_type": "max"}),
    ),
    "triton": (Spec("nv_inference_pending_request_count"), Spec("nv_inference_exec_count"), None, None, None),
}


def series(text: str) -> dict[str, list[tuple[Labels, float]]]:
    """Families with their samples; raises `ValueError` for a line that would void a scrape. Untyped ones read 0."""
    found: dict[str, list[tuple[Labels, float]]] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            if kind not in ("counter", "gauge", "histogram", "summary") or name in kinds:
                raise ValueError(line)
            kinds[name] = kind
        elif line and not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            if match is None:
                raise ValueError(line)
            name, labels, value = match.groups()
            found.setdefault(name, []).append(
                (dict(LABEL.findall(labels or "")), float(value) if kinds.get(name) in ("counter", "gauge") else 0.0)
            )
    return found


def read(text: str, engine_type: str) -> Picture:
    """What the picker makes of an exposition."""
    families = series(text)

    def one(spec: Spec | None) -> float | None:
        if spec is None:
            return None
        labels, value = next(
            (labels, value) for labels, value in families[spec.family] if spec.labels.items() <= labels.items()
        )
        return int(labels[spec.label]) if spec.label else value

    waiting, running, usage, size, blocks = (one(spec) for spec in SPECS[engine_type])
    whole = [None if value is None else int(value) for value in (waiting, running, size, blocks)]
    return Picture(whole[0], whole[1], usage, whole[2], whole[3])
