"""What vLLM writes to its log while it loads a model, in its order and words; here nothing is loaded, time just passes.

Source of the texts: vLLM 0.33; the shares of the phases are those of an 8B model on one H100, roughly.
"""

from __future__ import annotations

import asyncio
import logging

from ghostfleet_simulator.config import ServerConfig

_log = logging.getLogger("ghostfleet.serve")

_WEIGHTS, _COMPILE, _PROFILE = 0.45, 0.25, 0.1
"""Shares of the start-up that pass before each phase's line; the rest is the capture of graphs."""


async def load(config: ServerConfig) -> None:
    """Let the start-up duration pass."""
    seconds = config.lifecycle.startup_duration.seconds
    longest, blocks, block_size = config.model.max_model_len, config.kv_cache.blocks, config.kv_cache.block_size
    _log.info("Starting to load model %s...", config.model.name)
    await asyncio.sleep(seconds * _WEIGHTS)
    _log.info("Loading weights took %.2f seconds", seconds * _WEIGHTS)
    _log.info("Model loading took %s GiB memory and %.6f seconds", "0.0", seconds * _WEIGHTS)
    await asyncio.sleep(seconds * _COMPILE)
    _log.info("torch.compile took %.2f s in total", seconds * _COMPILE)
    await asyncio.sleep(seconds * _PROFILE)
    # v1/core/kv_cache_utils.py: how many sequences of the greatest length fit, and their tokens.
    concurrency = blocks / -(-longest // block_size)
    _log.info(
        "GPU KV cache size: %s tokens, Maximum concurrency for %s tokens per request: %.2fx",
        f"{int(concurrency * longest):,}",
        f"{longest:,}",
        concurrency,
    )
    capture = seconds * (1 - _WEIGHTS - _COMPILE - _PROFILE)
    await asyncio.sleep(capture)
    _log.info("Graph capturing finished in %.0f secs, took %.2f GiB", capture, 0.0)
    _log.info("init engine (profile, create kv cache, warmup model) took %.2f s", seconds * (1 - _WEIGHTS))
