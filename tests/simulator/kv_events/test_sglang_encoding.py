"""KV events of SGLang 0.5.10, byte for byte: one page an event, arrays without their trailing defaults."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent, Medium
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.kv_events.encoding import encoder_of

CONFIG = ServerConfig.model_validate(
    {"model": {"name": "m"}, "engine": {"dialect": "SGLang"}, "kvCache": {"blockSize": 2, "blocks": 20000}}
)


def pages_of(tokens: list[int], *, lora: Adapter | None = None, salt: str | None = None) -> list[bytes]:
    hasher = BlockHasher(CONFIG, bytes(32))
    seq = Sequence("x", tokens, Answer(1), 0, lora=lora, cache_salt=salt)
    return [hasher.following(seq) for _ in range(len(tokens) // 2)]


def test_a_hash_is_that_of_the_one_before_and_the_tokens_as_32_bits_each() -> None:
    """Of the first page only the tokens, so it depends on nothing but them."""
    first, second = pages_of([1, 2, 300, 70000])
    assert first == sha256(bytes.fromhex("0100000002000000")).digest()
    assert second == sha256(first + bytes.fromhex("2c01000070110100")).digest()


def test_adapters_and_salts_have_pages_of_their_own() -> None:
    """SGLang keeps them in caches of their own; here their hashes differ."""
    adapter = Adapter(1, "a", "/a", 8)
    found = [pages_of([1] * 4), pages_of([1] * 4, lora=adapter), pages_of([1] * 4, salt="s")]
    assert len({page for pages in found for page in pages}) == 6


def test_bytes_of_a_batch() -> None:
    """Written out by hand: hashes are signed 64-bit numbers, the first bytes of the digest."""
    first, second = bytes.fromhex("ff" * 7 + "80" + "00" * 24), bytes.fromhex("7f" + "ff" * 7 + "00" * 24)
    events: list[CacheEvent] = [
        BlockStored([first, second], None, (1, 2, 3, 4), 2, [("salt",), None], lora_id=1, lora_name="a"),
        BlockRemoved([second]),
        BlockStored([first], None, (), 2, medium=Medium.CPU),
        AllBlocksCleared(),
    ]

    def text(word: str) -> bytes:
        return bytes([0xA0 + len(word)]) + word.encode()

    low, high = b"\xd0\x80", b"\xcf\x7f" + b"\xff" * 7
    assert encoder_of(CONFIG, 3).encode(0.0, events) == b"".join(
        [
            b"\x93\xcb" + bytes(8) + b"\x95",
            b"\x97" + text("BlockStored") + b"\x91" + low + b"\xc0\x92\x01\x02\x02\xc0" + text("GPU"),
            b"\x97" + text("BlockStored") + b"\x91" + high + low + b"\x92\x03\x04\x02\xc0" + text("GPU"),
            b"\x93" + text("BlockRemoved") + b"\x91" + high + text("GPU"),
            b"\x97" + text("BlockStored") + b"\x91" + low + b"\xc0\x90\x02\xc0" + text("CPU_PINNED"),
            b"\x91" + text("AllBlocksCleared"),
            b"\x03",
        ]
    )


def test_what_sglangs_own_classes_encode() -> None:
    """As it declares them: arrays that leave out trailing defaults."""

    class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
        ts: float
        events: list[msgspec.Struct]
        attn_dp_rank: int | None = None

    class Stored(msgspec.Struct, array_like=True, omit_defaults=True, tag="BlockStored"):
        block_hashes: list[int]
        parent_block_hash: int | None
        token_ids: list[int]
        block_size: int
        lora_id: int | None
        medium: str | None = None

    stored = Stored([-5], 7, [8, 9], 2, None, "GPU")
    page, before = (-5).to_bytes(8, "big", signed=True) + bytes(24), (7).to_bytes(8, "big") + bytes(24)
    ours = encoder_of(CONFIG, 0).encode(1.5, [BlockStored([page], before, (8, 9), 2)])
    assert ours == msgspec.msgpack.encode(Batch(1.5, [stored], 0))
