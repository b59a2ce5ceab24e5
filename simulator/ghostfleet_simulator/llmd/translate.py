"""From llm-d-inference-sim's settings to a configuration of ours, and back for those that a running server changes."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from ghostfleet_simulator.config import TYPED_ERRORS, LatencyCalculator, ServerConfig, SimpleTiming, equal_shares
from ghostfleet_simulator.llmd.fake_metrics import fake_metrics
from ghostfleet_simulator.llmd.settings import SETTINGS, Fate, LlmdSettings
from ghostfleet_simulator.problems import Problem
from ghostfleet_simulator.units import Duration

FAILURES: Final = dict(
    zip(
        ("rate_limit", "invalid_api_key", "context_length", "server_error", "invalid_request", "model_not_found"),
        TYPED_ERRORS,
        strict=True,
    )
)
"""Its failures and ours."""

_CALCULATORS: Final = {
    "": LatencyCalculator.AUTO,
    "constant": LatencyCalculator.CONSTANT,
    "per-token": LatencyCalculator.PER_TOKEN,
}
_ARRAYS, _MAPS = "0.19", "0.24"
"""Versions of vLLM that write KV events with the fields of its two formats."""
_SHORTEST: Final = 16
_MOST_TOKENS: Final = 1_048_576
_MOST_BLOCKS: Final = 100_000_000
_TIMES: Final = "profile.simple."


def tree_of(settings: LlmdSettings, *, dev_mode: bool) -> dict[str, Any]:
    """The blocks of a `ServerConfig` but `listen`, with what the settings say; to be validated."""
    longest = max(settings.max_model_len, _SHORTEST)
    tokens = max(min(settings.max_num_seqs * longest, _MOST_TOKENS), settings.max_num_seqs)
    tree: dict[str, Any] = {
        "model": {
            "name": settings.model,
            "maxModelLen": longest,
            "multimodal": True,
            **({"encoderOnly": True} if settings.mm_encoder_only else {}),
            **({"servedNames": list(settings.served_model_name)} if settings.served_model_name else {}),
        },
        "engine": {"version": _MAPS if settings.use_vllm_map_event_format else _ARRAYS},
        "scheduling": {
            "maxNumSeqs": settings.max_num_seqs,
            "maxNumBatchedTokens": tokens,  # it has no token budget
            "maxWaitingRequests": settings.max_waiting_queue_length,
        },
        "kvCache": {
            **({} if settings.enable_kvcache else {"enablePrefixCaching": False}),
            **({"blockSize": settings.block_size} if settings.block_size != 16 else {}),
            "blocks": _blocks(settings, longest),
            "hashSeed": settings.hash_seed or "0",
        },
        "http": {
            "llmdSimRoutes": True,
            "allowRuntimeLoraUpdating": True,
            **({"developmentMode": True} if dev_mode and settings.enable_sleep_mode else {}),
        },
        "api": {
            "completionsToTheEnd": True,
            "enablePromptTokensDetails": True,
            "enableAutoToolChoice": True,
            **({"enableRequestIdHeaders": True} if settings.enable_request_id_headers else {}),
        },
        "kvTransfer": _kv_transfer(settings),
        "failureHeaders": True,
        **({"answers": {"mode": "Echo"}} if settings.mode == "echo" else {}),
        "lora": _lora(settings),
        "profile": {"simple": _times(settings)},
    }
    if settings.enable_kvcache and settings.zmq_endpoint:
        tree["kvEvents"] = _events(settings)
    if settings.startup_duration:
        tree["lifecycle"] = {"readyAfter": str(Duration(settings.startup_duration))}
    if settings.data_parallel_size > 1 and settings.data_parallel_rank < 0:
        tree |= {"dataParallelSize": settings.data_parallel_size, "dataParallelPortPerRank": True}
    if "seed" in settings.model_fields_set:
        tree["seed"] = settings.seed % 2**63
    return tree | live_tree(settings, ("failures", "fakeMetrics"))


def live_tree(
    settings: LlmdSettings, blocks: tuple[str, ...] = ("profile", "failures", "fakeMetrics")
) -> dict[str, Any]:
    """Those blocks that a running server takes over; empty ones are left out."""
    made: dict[str, Any] = {
        "profile": {"simple": _times(settings)},
        "failures": equal_shares(
            settings.failure_injection_rate,
            [FAILURES[name] for name in settings.failure_types] or list(TYPED_ERRORS),
        ),
        "fakeMetrics": fake_metrics(settings.fake_metrics or {}, "fake-metrics", settings.max_loras),
    }
    return {name: made[name] for name in blocks if made[name]}


def _blocks(settings: LlmdSettings, longest: int) -> int:
    one = -(-longest // settings.block_size)
    # Without its cache a prompt finds room whatever others take.
    needed = one if settings.enable_kvcache else one * settings.max_num_seqs
    return min(max(settings.kv_cache_size, needed) + 1, _MOST_BLOCKS)


def _kv_transfer(settings: LlmdSettings) -> dict[str, Any]:
    # Any of its servers takes either leg of a request, and fails for none.
    transfer = {"kvConnector": "NixlConnector", "kvRole": "kv_both", "kvLoadFailurePolicy": "recompute"}
    if settings.global_cache_hit_threshold and settings.enable_kvcache:
        transfer["cacheHitThreshold"] = _decimal(settings.global_cache_hit_threshold)
    return transfer


def _lora(settings: LlmdSettings) -> dict[str, Any]:
    lora: dict[str, Any] = {"enabled": True}
    if settings.max_loras > 1:
        lora["maxLoras"] = settings.max_loras
    if settings.max_cpu_loras:
        lora["maxCpuLoras"] = settings.max_cpu_loras
    if settings.lora_modules:
        lora["adapters"] = [
            {"name": one.name, **({"path": one.path} if one.path else {})} for one in settings.lora_modules
        ]
    return lora


def _events(settings: LlmdSettings) -> dict[str, Any]:
    events: dict[str, Any] = {
        "enableKvCacheEvents": True,
        "endpoint": settings.zmq_endpoint,
        "topic": "kv@$(POD_IP):$(PORT)@" + settings.model,
    }
    if settings.kv_events_replay_endpoint:
        events["replayEndpoint"] = settings.kv_events_replay_endpoint
        events["bufferSteps"] = settings.kv_events_replay_queue_size
    return events


def _times(settings: LlmdSettings) -> dict[str, Any]:
    """The fields of `profile.simple`; defaults are left out."""
    times: dict[str, Any] = {}
    for setting in SETTINGS.values():
        if not setting.becomes.field.startswith(_TIMES):
            continue
        field, value = setting.becomes.field.removeprefix(_TIMES), settings.value(setting.name)
        if field == "latencyCalculator":
            times |= {field: _CALCULATORS[value].value} if value else {}
        elif field == "timeFactorUnderLoad":
            times |= {field: _decimal(value)} if value != 1 else {}
        elif value:
            times[field] = str(Duration(value))
    return times


def _decimal(number: float) -> str:
    return format(round(Decimal(str(number)), 9).normalize(), "f")


def times_patch(settings: LlmdSettings, names: Iterable[str]) -> dict[str, Any]:
    """The times of these names as a merge patch of `profile.simple`; one that has its default is taken away there."""
    fields = [SETTINGS[name].becomes.field for name in names]
    wanted = [field.removeprefix(_TIMES) for field in fields if field.startswith(_TIMES)]
    times = _times(settings)
    return {field: times.get(field) for field in wanted}


def notes(settings: LlmdSettings, *, dev_mode: bool) -> list[tuple[Fate, Problem]]:
    """What became of the settings that were given, but for those that mean the same; paths are their names."""
    found: list[tuple[Fate, Problem]] = []
    for name in settings.given:
        becomes = SETTINGS[name].becomes
        if settings.value(name) == SETTINGS[name].info.default and becomes.fate is not Fate.NEEDLESS:
            continue
        if becomes.fate is not Fate.SAME:
            field = f"is {becomes.field}; " if becomes.field else ""
            found.append((becomes.fate, Problem(name, field + becomes.why)))
    if settings.enable_sleep_mode and not dev_mode:
        text = "has no effect without VLLM_SERVER_DEV_MODE=1, as in llm-d-inference-sim"
        found.append((Fate.NEEDLESS, Problem("enable-sleep-mode", text)))
    if settings.global_cache_hit_threshold and not settings.enable_kvcache:
        text = "has no effect without enable-kvcache, as in llm-d-inference-sim"
        found.append((Fate.NEEDLESS, Problem("global-cache-hit-threshold", text)))
    if settings.max_model_len < _SHORTEST:
        found.append((Fate.CLOSE, Problem("max-model-len", f"is {_SHORTEST}, the least there is")))
    one = -(-max(settings.max_model_len, _SHORTEST) // settings.block_size)
    if settings.enable_kvcache and settings.kv_cache_size < one:
        text = f"{settings.kv_cache_size} blocks do not hold one sequence of max-model-len; there are {one}"
        found.append((Fate.CLOSE, Problem("kv-cache-size", text)))
    return found


def settings_in_force(config: ServerConfig, start: LlmdSettings | None) -> LlmdSettings:
    """The settings that say what a server does now: those it was started with, if any, over which `config` counts."""
    base = start.model_dump(by_alias=True) if start else {}
    return LlmdSettings.model_validate(base | _fixed(config) | _live(config))


def _fixed(config: ServerConfig) -> dict[str, Any]:
    events = config.kv_events
    return {
        "port": config.listen.port,
        "model": config.model.name,
        "served-model-name": config.model.aliases,
        "max-model-len": config.model.max_model_len,
        "max-num-seqs": config.limits.max_num_seqs,
        "mode": config.answers.mode.value.lower(),
        "max-loras": config.lora.max_loras,
        "max-cpu-loras": config.lora.host_places,
        "enable-kvcache": config.kv_cache.enable_prefix_caching,
        "global-cache-hit-threshold": float(config.kv_transfer.cache_hit_threshold or 0),
        **({"zmq-endpoint": events.endpoint} if events.enabled else {}),
    }


def _live(config: ServerConfig) -> dict[str, Any]:
    simple = {info.alias: getattr(config.profile.simple, name) for name, info in SimpleTiming.model_fields.items()}
    live: dict[str, Any] = {}
    for setting in SETTINGS.values():
        if not setting.becomes.field.startswith(_TIMES):
            continue
        value = simple[setting.becomes.field.removeprefix(_TIMES)]
        match setting.name:
            case "latency-calculator":
                live[setting.name] = next(name for name, ours in _CALCULATORS.items() if ours == value)
            case "time-factor-under-load":
                live[setting.name] = float(value)
            case _:
                live[setting.name] = value.ns
    shares = {failure.type: float(failure.probability) for failure in config.failures if failure.type in TYPED_ERRORS}
    live["failure-injection-rate"] = round(100 * sum(shares.values()))
    live["failure-types"] = [name for name, ours in FAILURES.items() if ours in shares]
    return live
