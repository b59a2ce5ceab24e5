"""Bytes of KV events: against structs declared as each release of vLLM declares them, and against vectors by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ghostfleet_simulator.config import HashAlgorithm, ServerConfig
from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent, Medium
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.kv_events.encoding import BatchEncoder
from ghostfleet_simulator.versions import conduct

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
STORED = ["block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"]
REMOVED = ["block_hashes", "medium"]

# Fields that came later, and the first release with them; the boundaries are those of the contract.
LATER = [
    ("lora_name", (0, 17), False),
    ("extra_keys", (0, 17), True),
    ("group_idx", (0, 20), True),
    ("kv_cache_spec_kind", (0, 23), True),
    ("kv_cache_spec_sliding_window", (0, 23), True),
    ("locality", (0, 27), True),
    ("ownership", (0, 29), True),
    ("session_id", (0, 31), True),
    ("lookahead_token_ids", (0, 33), True),
]
VALUES = {
    "block_hashes": [FIRST, SECOND],
    "parent_block_hash": bytes(32),
    "token_ids": list(range(100, 132)),
    "block_size": 16,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
    "extra_keys": [("salt",), None],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
    "session_id": "s-1",
}
RELEASES = ["0.12", "0.17", "0.20", "0.23", "0.24", "0.26", "0.31", "0.33"]


def declared(tag: str, required: list[str], release: str, optional: set[str]) -> type[msgspec.Struct]:
    """vLLM's class of an event in a release: a tagged struct, an array up to 0.23, that leaves out defaults."""
    number = tuple(map(int, release.split(".")))
    fields: list[Any] = [(name, Any) for name in required]
    for name, since, spare in LATER:
        if name in optional and number >= since:
            fields.append((name, Any, None) if spare else (name, Any))
    return msgspec.defstruct(tag, fields, tag=True, omit_defaults=True, array_like=number < (0, 24))


def expected(release: str, rank: int) -> bytes:
    stored = declared("BlockStored", STORED, release, {name for name, _, _ in LATER})
    removed = declared("BlockRemoved", REMOVED, release, {"group_idx", "locality", "ownership"})
    cleared = declared("AllBlocksCleared", [], release, set())

    def make(kind: type[msgspec.Struct]) -> msgspec.Struct:
        return kind(**{name: VALUES[name] for name in kind.__struct_fields__ if name in VALUES})

    batch = msgspec.defstruct(
        "KVEventBatch",
        [("ts", float), ("events", list[Any]), ("data_parallel_rank", int | None, None)],
        array_like=True,
        omit_defaults=True,
    )
    return msgspec.msgpack.encode(batch(1.5, [make(stored), make(removed), make(cleared)], rank))


EVENTS: list[CacheEvent] = [
    BlockStored([FIRST, SECOND], bytes(32), tuple(range(100, 132)), 16, [("salt",), None], session_id="s-1"),
    BlockRemoved([FIRST, SECOND]),
    AllBlocksCleared(),
]


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_has_its_bytes(release: str, rank: int) -> None:
    """A batch with all kinds of events is byte for byte what the release's own classes encode."""
    encoder = BatchEncoder(conduct(release), rank=rank, int_hashes=False)
    assert encoder.encode(1.5, EVENTS) == expected(release, rank)


@pytest.mark.parametrize(
    ("release", "stored", "removed"),
    [
        ("0.12", ["BlockStored", [7, 8], 9, [1, 2], 1, None, "GPU"], ["BlockRemoved", [7], "GPU"]),
        (
            "0.17",
            ["BlockStored", [7, 8], 9, [1, 2], 1, None, "GPU", None, [["salt"], None]],
            ["BlockRemoved", [7], "GPU"],
        ),
        (
            "0.20",
            ["BlockStored", [7, 8], 9, [1, 2], 1, None, "GPU", None, [["salt"], None], 0],
            ["BlockRemoved", [7], "GPU", 0],
        ),
        (
            "0.23",
            ["BlockStored", [7, 8], 9, [1, 2], 1, None, "GPU", None, [["salt"], None], 0, "full_attention", None],
            ["BlockRemoved", [7], "GPU", 0],
        ),
    ],
)
def test_arrays_of_old_releases(release: str, stored: list[Any], removed: list[Any]) -> None:
    """The fields in their order, the later ones only where they were there."""
    seven, eight, nine = (bytes(31) + bytes([number]) for number in (7, 8, 9))
    encoder = BatchEncoder(conduct(release), rank=0, int_hashes=True)
    events: list[CacheEvent] = [
        BlockStored([seven, eight], nine, (1, 2), 1, [("salt",), None]),
        BlockRemoved([seven]),
        AllBlocksCleared(),
    ]
    assert msgspec.msgpack.decode(encoder.encode(0.0, events))[1] == [stored, removed, ["AllBlocksCleared"]]


def test_bytes_of_a_batch_of_0_33() -> None:
    """The vector of the contract, written out by hand: map keys in this order, nothing spare, the rank at the end.

    The header of the map is the long one, as vLLM's encoder writes it for a class with more than 15 entries.
    """
    hasher = BlockHasher(ServerConfig.model_validate({"model": {"name": "m"}}), bytes(32))
    seq = Sequence("x", list(range(32)), _Answer(), 0)
    hashes = [hasher.following(seq), hasher.following(seq)]
    assert hasher.none_hash.hex() == "066b1e8987e027138e98701c46128929378935f9b6cd1549105ae6b4f0d71198"
    assert hashes[0].hex() == "fe8fa5dda3210d0ca2031e37cbe3b001186773cd1c710beb2d45fcb51d434798"
    event = BlockStored(hashes, None, seq.tokens(0, 32), 16, [None, None])
    encoded = BatchEncoder(conduct("0.33"), rank=0, int_hashes=True).encode(0.0, [event])

    def text(word: str) -> bytes:
        return bytes([0xA0 + len(word)]) + word.encode()

    assert encoded == b"".join(
        [
            b"\x93" + b"\xcb" + bytes(8) + b"\x91" + b"\xde\x00\x0b",
            text("type") + text("BlockStored"),
            text("block_hashes") + b"\x92\xcf" + (3262291359910021016).to_bytes(8, "big"),
            b"\xcf" + (7142137847444424233).to_bytes(8, "big"),
            text("parent_block_hash") + b"\xc0",
            text("token_ids") + b"\xdc\x00\x20" + bytes(range(32)),
            text("block_size") + b"\x10",
            text("lora_id") + b"\xc0" + text("medium") + text("GPU") + text("lora_name") + b"\xc0",
            text("extra_keys") + b"\x92\xc0\xc0",
            text("group_idx") + b"\x00",
            text("kv_cache_spec_kind") + text("full_attention"),
            b"\x00",
        ]
    )


@pytest.mark.parametrize(
    ("algorithm", "first"),
    [(HashAlgorithm.SHA256, 3262291359910021016), (HashAlgorithm.SHA256_CBOR, 2233398808101521225)],
)
def test_a_hash_is_shown_as_its_last_64_bits_or_in_whole(algorithm: HashAlgorithm, first: int) -> None:
    """The integers of the contract, and the same hash as bytes."""
    cache = {"prefixCachingHashAlgo": algorithm.value}
    config = ServerConfig.model_validate({"model": {"name": "m"}, "kvCache": cache})
    block_hash = BlockHasher(config, bytes(32)).following(Sequence("x", list(range(16)), _Answer(), 0))
    for numbers, shown in ((True, first), (False, block_hash)):
        encoder = BatchEncoder(conduct("0.23"), rank=0, int_hashes=numbers)
        batch = msgspec.msgpack.decode(encoder.encode(0.0, [BlockRemoved([block_hash])]))
        assert batch == [0.0, [["BlockRemoved", [shown], "GPU", 0]], 0]


def test_the_cpu_tier_is_told_of_as_the_offloading_connector_does() -> None:
    """Neither tokens nor kind of cache (vLLM 0.33 offloading/events.py, placeholders)."""
    event = BlockStored([FIRST], None, (), 0, medium=Medium.CPU)
    batch = msgspec.msgpack.decode(BatchEncoder(conduct("0.33"), rank=0, int_hashes=False).encode(0.0, [event]))
    assert batch[1] == [
        {
            "type": "BlockStored",
            "block_hashes": [FIRST],
            "parent_block_hash": None,
            "token_ids": [],
            "block_size": 0,
            "lora_id": None,
            "medium": "CPU",
            "lora_name": None,
            "group_idx": 0,
        }
    ]


class _Answer:
    length = 1
    finish_reason = "length"
    stop_reason = None

    def token(self, index: int) -> int:
        return index
