"""What changed from one release of vLLM to the next: a switch per behaviour, so that no other module compares versions.

A switch tells what the release does; where it has a number, that is the first release that does so. Read in the sources
of 0.12 to 0.33; within a range that was not read release by release the later end is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

NEWEST: Final = "0.33.0"
"""The newest release whose behaviour is known."""
OLDEST: Final = "0.12"
"""The oldest release whose behaviour is known."""
SGLANG: Final = "0.5.10"
"""The release of SGLang that is shown: the last one that has all that llm-d's schedulers read."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """What one release of vLLM does where releases differ."""

    # --- requests
    clamps_max_tokens: bool
    """0.32: `max_tokens` is cut to what is left behind the prompt; before, more than that is refused."""
    lists_aliases: bool
    """0.32: the 404 of an unknown model names the ones there are."""
    # --- routes
    has_kv_event_sources: bool
    """0.31: `GET /kv_event_sources`."""
    reset_says_success: bool
    """0.26: `POST /reset_prefix_cache` answers `{"success": ...}`; before, an empty body."""
    # --- block hashes and blocks
    fixed_hash_seed: bool
    """0.29: the first block is chained to a fixed seed; before, to random bytes of the process."""
    tagged_extra_keys: bool
    """0.31: extra keys of a block say what they are."""
    unhashed_blocks_first: bool
    """0.23: a freed block without a hash is the next to be used; before, the last."""
    # --- KV events
    kv_events_as_maps: bool
    """0.24: an event is a map with the names of its fields; before, an array."""
    block_stored_fields: int
    """Fields of `BlockStored`; later releases only added some at the end: 0.17 `lora_name` and `extra_keys`, 0.20
    `group_idx`, 0.23 two of the kind of cache, 0.27 `locality`, 0.29 `ownership`, 0.31 `session_id`, 0.33
    `lookahead_token_ids`."""
    block_removed_fields: int
    """Fields of `BlockRemoved`: 0.20 `group_idx`, 0.27 `locality`, 0.29 `ownership`."""
    kv_replay_has_topic: bool
    """0.26: the topic comes before the sequence number in replayed batches as well."""
    # --- data-parallel ranks
    balances_by_flight: bool
    """0.27: an engine's load is at least what was sent to it and has not ended, and a queue counts for more where the
    KV cache is nearly full; before, four times the waiting and once the running."""
    balances_in_turn: bool
    """0.25: of engines that are alike another one is taken each time; before, the first."""
    # --- prefill/decode
    names_pulled_requests: bool
    """0.17: NIXL's parameters have `remote_request_id`, and what a failed transfer does can be chosen."""
    groups_pulled_blocks: bool
    """0.20: their `remote_block_ids` are a list per group of the KV cache; before, one list."""
    leases_blocks: bool
    """0.23: blocks are held for a lease that heartbeats prolong, after a stop as well, and the parameters have
    `remote_num_tokens`; before, for a fixed time, and only after an answer that ended by its length."""
    tells_expiry: bool
    """0.26: they have `remote_blocks_expiry_time`."""
    tells_parallel_sizes: bool
    """0.29: they have `dcp_size`, `pp_size` and `transfer_mode`."""
    tells_remote_hits: bool
    """0.33: they have `remote_registration_generation` and `remote_prefill_cached_tokens`."""
    # --- metrics
    counts_kv_expired: bool
    """0.17: `nixl_num_kv_expired_reqs`."""
    counts_kv_fetches: bool
    """0.33: `num_requests_kv_fetch_by_stage`, `nixl_num_notifications_after_expiry` and Mooncake's metrics."""
    counts_time_per_output_token: bool
    """Up to 0.12: `vllm:time_per_output_token_seconds` beside `vllm:inter_token_latency_seconds`; from 0.12 on vLLM has
    it only with `--show-hidden-metrics-for-version`, but its dashboards still look for it there."""
    counts_prompt_tokens_by_source: bool
    """0.16: `prompt_tokens_by_source` and `prompt_tokens_cached`, which 0.13 has not."""
    counts_prompt_tokens_recomputed: bool
    """0.16 to 0.19: `prompt_tokens_recomputed`; a token that it counts is a hit of the prefix cache, too."""
    counts_prefill_computed: bool
    """0.13: `request_prefill_kv_computed_tokens`."""
    counts_waiting_by_reason: bool
    """0.20: `num_requests_waiting_by_reason`."""
    counts_admission_rejections: bool
    """0.32: `admission_rejections`."""
    counts_cached_by_source: bool
    """0.33: `prompt_tokens_cached_by_source` and `request_num_preemptions`."""


def release_of(version: str) -> tuple[int, int]:
    """Major and minor number of `0.29`, `0.29.1`, ..., to compare with."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def known(version: str) -> bool:
    """Whether the behaviour of a version, in the form of numbers and dots, is known."""
    return release_of(OLDEST) <= release_of(version) <= release_of(NEWEST)


def _count(release: tuple[int, int], begin: int, added: tuple[int, ...]) -> int:
    """What grew from `begin` by one with each of these minor releases of 0."""
    return begin + sum(release >= (0, minor) for minor in added)


@cache
def conduct(version: str) -> Conduct:
    """What a known version does."""
    release = release_of(version)
    return Conduct(
        clamps_max_tokens=release >= (0, 32),
        lists_aliases=release >= (0, 32),
        has_kv_event_sources=release >= (0, 31),
        reset_says_success=release >= (0, 26),
        fixed_hash_seed=release >= (0, 29),
        tagged_extra_keys=release >= (0, 31),
        unhashed_blocks_first=release >= (0, 23),
        kv_events_as_maps=release >= (0, 24),
        block_stored_fields=_count(release, 6, (17, 17, 20, 23, 23, 27, 29, 31, 33)),
        block_removed_fields=_count(release, 2, (20, 27, 29)),
        kv_replay_has_topic=release >= (0, 26),
        balances_by_flight=release >= (0, 27),
        balances_in_turn=release >= (0, 25),
        names_pulled_requests=release >= (0, 17),
        groups_pulled_blocks=release >= (0, 20),
        leases_blocks=release >= (0, 23),
        tells_expiry=release >= (0, 26),
        tells_parallel_sizes=release >= (0, 29),
        tells_remote_hits=release >= (0, 33),
        counts_kv_expired=release >= (0, 17),
        counts_kv_fetches=release >= (0, 33),
        counts_time_per_output_token=release < (0, 13),
        counts_prompt_tokens_by_source=release >= (0, 16),
        counts_prompt_tokens_recomputed=(0, 16) <= release < (0, 20),
        counts_prefill_computed=release >= (0, 13),
        counts_waiting_by_reason=release >= (0, 20),
        counts_admission_rejections=release >= (0, 32),
        counts_cached_by_source=release >= (0, 33),
    )
