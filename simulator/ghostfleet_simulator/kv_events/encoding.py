"""Batches of KV events as msgpack, in the layout of each release.

Source: vLLM distributed/kv_events.py, 0.12 to 0.33. The structs are declared with vLLM's library as vLLM declares them,
for what it writes depends on the declaration: an array has all its fields, a map leaves out those that have their
default, and a map that could have more than 15 entries has a header of three bytes whatever is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from ghostfleet_simulator.config import Dialect, ServerConfig
from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, CacheEvent, Medium
from ghostfleet_simulator.versions import Conduct

_STORED: Final = (
    *("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"),
    *("extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership"),
    *("session_id", "lookahead_token_ids"),
)
_REMOVED: Final = ("block_hashes", "medium", "group_idx", "locality", "ownership")
_WITHOUT_DEFAULT: Final = {"BlockStored": 7, "BlockRemoved": 2}
"""How many of the first fields have no default."""

_GROUP: Final = 0
"""Number of the only group of layers that cache in the same way."""
_KIND: Final = "full_attention"


def shown_as_number(block_hash: bytes) -> int:
    """The last 64 bits of a hash (vLLM 0.33 v1/core/kv_cache_utils.py, maybe_convert_block_hash)."""
    return int.from_bytes(block_hash[-8:], "big")


def _shown_as_bytes(block_hash: bytes) -> bytes:
    return block_hash


class BatchEncoder:
    """Encodes the batches of one rank."""

    def __init__(self, conduct: Conduct, *, rank: int, int_hashes: bool) -> None:
        self._rank = rank
        self._show: Callable[[bytes], int | bytes] = shown_as_number if int_hashes else _shown_as_bytes
        self._stored_fields, self._removed_fields = conduct.block_stored_fields, conduct.block_removed_fields
        self._stored = _declared("BlockStored", _STORED[: self._stored_fields], conduct)
        self._removed = _declared("BlockRemoved", _REMOVED[: self._removed_fields], conduct)
        self._cleared = _declared("AllBlocksCleared", (), conduct)
        self._encode = msgspec.msgpack.Encoder().encode

    def encode(self, at: float, events: Sequence[CacheEvent]) -> bytes:
        """A batch that was made `at` a Unix time."""
        return self._encode((at, [self._event(event) for event in events], self._rank))

    def _event(self, event: CacheEvent) -> msgspec.Struct:
        show = self._show
        if isinstance(event, BlockRemoved):
            hashes = [show(block_hash) for block_hash in event.block_hashes]
            return self._removed(*(hashes, event.medium.value, _GROUP, None, None)[: self._removed_fields])
        if isinstance(event, AllBlocksCleared):
            return self._cleared()
        parent = event.parent_block_hash
        values = (
            [show(block_hash) for block_hash in event.block_hashes],
            None if parent is None else show(parent),
            event.token_ids,
            event.block_size,
            event.lora_id,
            event.medium.value,
            event.lora_name,
            event.extra_keys,
            _GROUP,
            _KIND if event.medium is Medium.GPU else None,
            None,
            None,
            None,
            event.session_id,
            None,
        )
        return self._stored(*values[: self._stored_fields])


class SGLangEncoder:
    """Encodes the batches of one rank as SGLang 0.5.10 does (srt/disaggregation/kv_events.py).

    An event is an array that ends before the first of its defaults, and is about one page; a hash is a signed number,
    the first 64 bits. Adapters, extra keys and sessions are not told of.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._encode = msgspec.msgpack.Encoder().encode

    def encode(self, at: float, events: Sequence[CacheEvent]) -> bytes:
        """A batch that was made `at` a Unix time."""
        return self._encode((at, [page for event in events for page in _pages(event)], self._rank))


_SGLANG_MEDIA: Final = {Medium.GPU: "GPU", Medium.CPU: "CPU_PINNED", Medium.STORAGE: "DISK"}


def shown_as_signed(block_hash: bytes) -> int:
    """The first 64 bits of a hash (SGLang 0.5.10 mem_cache/hicache_storage.py, hash_str_to_int64)."""
    return int.from_bytes(block_hash[:8], "big", signed=True)


def _pages(event: CacheEvent) -> Iterator[tuple[Any, ...]]:
    if isinstance(event, AllBlocksCleared):
        yield ("AllBlocksCleared",)
        return
    medium = _SGLANG_MEDIA[event.medium]
    hashes = [shown_as_signed(block_hash) for block_hash in event.block_hashes]
    if isinstance(event, BlockRemoved):
        for block_hash in hashes:
            yield ("BlockRemoved", [block_hash], medium)
        return
    before = None if event.parent_block_hash is None else shown_as_signed(event.parent_block_hash)
    size = event.block_size
    for index, block_hash in enumerate(hashes):
        tokens = event.token_ids[index * size : (index + 1) * size]
        yield ("BlockStored", [block_hash], before, tokens, size, None, medium)
        before = block_hash


def encoder_of(config: ServerConfig, rank: int) -> BatchEncoder | SGLangEncoder:
    """What encodes the batches of a rank."""
    if config.engine.dialect is Dialect.SGLANG:
        return SGLangEncoder(rank)
    return BatchEncoder(config.engine.conduct, rank=rank, int_hashes=config.kv_events.int_block_hashes)


def _declared(tag: str, fields: tuple[str, ...], conduct: Conduct) -> type[msgspec.Struct]:
    required = _WITHOUT_DEFAULT.get(tag, 0)
    return msgspec.defstruct(
        tag,
        [(name, Any) if index < required else (name, Any, None) for index, name in enumerate(fields)],
        tag=True,
        omit_defaults=True,
        gc=False,
        array_like=not conduct.kv_events_as_maps,
    )
