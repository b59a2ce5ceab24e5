"""`vllm:cache_config_info`: vLLM's configuration of the KV cache as labels, which schedulers read."""

from __future__ import annotations

from ghostfleet_simulator.config import KVCache, ServerConfig
from ghostfleet_simulator.metrics.families import Family, Kind

CACHE_CONFIG = Family(
    "vllm:cache_config_info",
    Kind.GAUGE,
    "Information of the LLMEngine CacheConfig",
    "Always 1. Schedulers read `block_size` and `num_gpu_blocks`.",
    (
        *("block_size", "user_specified_block_size", "kv_cache_layout", "prefix_match_unit", "gpu_memory_utilization"),
        *("cache_dtype", "is_attention_free", "num_gpu_blocks_override", "sliding_window", "enable_prefix_caching"),
        *("prefix_caching_hash_algo", "prefix_cache_retention_interval", "kv_cache_dtype_skip_layers"),
        *("mamba_page_size_padded", "skip_page_size_padded", "mamba_block_size", "mamba_cache_dtype"),
        *("mamba_ssm_cache_dtype", "mamba_cache_mode", "enable_mamba_shared_prefix_checkpoint"),
        *("replayssm_buffer_len", "use_replayssm", "use_kda_recoverssm", "num_gpu_blocks", "num_cpu_blocks"),
        *("simple_cpu_offload_num_blocks", "effective_attention_block_size", "kv_cache_size_tokens"),
        *("kv_cache_max_concurrency", "hash_block_size", "cache_hit_alignment_tokens", "kv_sharing_fast_prefill"),
        *("swa_bounded_replay", "kv_cache_memory_bytes", "kv_offloading_size", "kv_offloading_backend"),
        *("_block_size_resolved", "engine"),
    ),
)


def cache_config(config: ServerConfig, engine: str) -> dict[str, str]:
    """The labels of `vllm:cache_config_info`: vLLM's CacheConfig as strings (0.33 config/cache.py).

    What is not simulated has vLLM's default on a GPU.
    """
    cache, longest = config.kv_cache, config.model.max_model_len
    # v1/core/kv_cache_utils.py: how many sequences of the greatest length the blocks hold, and their tokens.
    concurrency = cache.blocks / -(-longest // cache.block_size)
    block_size = str(cache.block_size)
    known = {
        "engine": engine,
        "block_size": block_size,
        "user_specified_block_size": str(cache.block_size != KVCache().block_size),
        "gpu_memory_utilization": "0.92",
        "cache_dtype": "auto",
        "num_gpu_blocks": str(cache.blocks),
        "num_gpu_blocks_override": str(cache.blocks) if cache.blocks != KVCache().blocks else "None",
        "enable_prefix_caching": str(cache.enable_prefix_caching),
        "prefix_caching_hash_algo": cache.prefix_caching_hash_algo.value,
        "prefix_cache_retention_interval": "0",
        "kv_cache_dtype_skip_layers": "[]",
        "mamba_cache_dtype": "auto",
        "mamba_ssm_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "replayssm_buffer_len": "16",
        "effective_attention_block_size": block_size,
        "hash_block_size": block_size,
        "cache_hit_alignment_tokens": block_size,
        "kv_cache_size_tokens": str(int(concurrency * longest)),
        "kv_cache_max_concurrency": str(concurrency),
        "kv_offloading_backend": "native",
        "swa_bounded_replay": "True",
        "_block_size_resolved": "True",
    }
    off = ("is_attention_free", "enable_mamba_shared_prefix_checkpoint", "use_replayssm")
    known |= dict.fromkeys((*off, "use_kda_recoverssm", "kv_sharing_fast_prefill"), "False")
    return {label: known.get(label, "None") for label in CACHE_CONFIG.labels}
