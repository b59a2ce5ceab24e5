"""What happens to the blocks that can be found by their content; KV events tell others of it.

Source: vLLM 0.33 distributed/kv_events.py. Hashes are whole digests here; how they are shown is the encoder's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Medium(StrEnum):
    """Where blocks lie, in vLLM's words."""

    GPU = "GPU"
    CPU = "CPU"
    STORAGE = "STORAGE"


@dataclass(slots=True)
class BlockStored:
    """Blocks of one sequence, which follow each other, can be found from now on.

    The first follows the block with the hash `parent_block_hash`, or is the first of all. `extra_keys` has an entry for
    each block. What lies in a tier beside the GPU is told of without tokens: whoever reads it knows them.
    """

    block_hashes: list[bytes]
    parent_block_hash: bytes | None
    token_ids: Sequence[int]
    block_size: int
    extra_keys: list[tuple[str, ...] | None] | None = None
    medium: Medium = Medium.GPU
    lora_id: int | None = None
    lora_name: str | None = None
    session_id: str | None = None


@dataclass(slots=True)
class BlockRemoved:
    """One block for each of the hashes is gone; there may be others with the same content."""

    block_hashes: list[bytes]
    medium: Medium = Medium.GPU


@dataclass(slots=True)
class AllBlocksCleared:
    """Nothing can be found any more."""


CacheEvent = BlockStored | BlockRemoved | AllBlocksCleared
