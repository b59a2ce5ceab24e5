"""Block hashes are vLLM's, byte for byte."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import cbor2
import pytest
import xxhash

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.sequence import Sequence

ENTROPY = bytes(range(32))


class Answer:
    """Goes on counting where a prompt of consecutive tokens ends."""

    finish_reason = "length"
    stop_reason = None

    def __init__(self, first: int, length: int = 64) -> None:
        self.first, self.length = first, length

    def token_ids(self, start: int, stop: int) -> list[int]:
        return list(range(self.first + start, self.first + stop))


def hasher(algorithm: str = "sha256", version: str = "0.33.0", **cache: Any) -> BlockHasher:
    tree = {"prefixCachingHashAlgo": algorithm, **cache}
    config = {"model": {"name": "m"}, "engine": {"version": version}, "kvCache": tree}
    return BlockHasher(ServerConfig.model_validate(config), ENTROPY)


def counting(prompt: int = 32, salt: str | None = None, lora: Adapter | None = None) -> Sequence:
    """Tokens 0, 1, 2, ..., of which `prompt` are the prompt."""
    return Sequence("s", list(range(prompt)), Answer(prompt), 0, cache_salt=salt, lora=lora)


def low_bits(block_hash: bytes) -> int:
    """What vLLM publishes of a hash in events."""
    return int.from_bytes(block_hash[-8:], "big")


@pytest.mark.parametrize(
    ("algorithm", "none_hash", "first", "first_bits", "second_bits"),
    [
        (
            "sha256",
            "066b1e8987e027138e98701c46128929378935f9b6cd1549105ae6b4f0d71198",
            "fe8fa5dda3210d0ca2031e37cbe3b001186773cd1c710beb2d45fcb51d434798",
            3262291359910021016,
            7142137847444424233,
        ),
        (
            "sha256_cbor",
            "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
            "dc918a88b139e5afe60b88eda27508d4aee16c10fdc354791efea06206ac0749",
            2233398808101521225,
            17911472383915781900,
        ),
    ],
)
def test_the_hashes_of_counting_tokens_are_those_of_vllm(
    algorithm: str, none_hash: str, first: str, first_bits: int, second_bits: int
) -> None:
    """Vectors made with vLLM's own functions."""
    made, seq = hasher(algorithm), counting()
    assert made.none_hash.hex() == none_hash
    assert made.following(seq).hex() == first
    assert low_bits(seq.block_hashes[0]) == first_bits
    assert low_bits(made.following(seq)) == second_bits


@pytest.mark.parametrize(
    ("algorithm", "encode", "digest"),
    [
        ("sha256", lambda v: pickle.dumps(v, 5), lambda b: hashlib.sha256(b).digest()),
        ("sha256_cbor", lambda v: cbor2.dumps(v, canonical=True), lambda b: hashlib.sha256(b).digest()),
        ("xxhash", lambda v: pickle.dumps(v, 5), lambda b: xxhash.xxh3_128(b).digest()),
        ("xxhash_cbor", lambda v: cbor2.dumps(v, canonical=True), lambda b: xxhash.xxh3_128(b).digest()),
    ],
)
def test_a_hash_is_that_of_parent_tokens_and_extra_keys(algorithm: str, encode: Any, digest: Any) -> None:
    """With a seed of one's own, for every algorithm."""
    made, seq = hasher(algorithm, hashSeed="42"), counting(salt="tenant")
    none_hash = digest(encode("42"))
    first = digest(encode((none_hash, tuple(range(16)), (("cache_salt", "tenant"),))))
    second = digest(encode((first, tuple(range(16, 32)), None)))
    assert made.none_hash == none_hash
    assert [made.following(seq), made.following(seq)] == [first, second] == seq.block_hashes


@pytest.mark.parametrize(
    ("algorithm", "version", "seed", "none_hash"),
    [
        ("sha256", "0.28.0", None, ENTROPY),
        ("xxhash", "0.28.0", None, ENTROPY),
        ("sha256", "0.29.0", None, hashlib.sha256(pickle.dumps("vllm-none-hash", 5)).digest()),
        ("xxhash", "0.33.0", None, xxhash.xxh3_128_digest(pickle.dumps(ENTROPY.hex(), 5))),
        ("xxhash", "0.33.0", "0", xxhash.xxh3_128_digest(pickle.dumps("0", 5))),
        ("sha256", "0.20.0", "0", hashlib.sha256(pickle.dumps("0", 5)).digest()),
    ],
)
def test_what_the_first_block_is_chained_to_depends_on_version_and_seed(
    algorithm: str, version: str, seed: str | None, none_hash: bytes
) -> None:
    """A fixed seed since 0.29, but never for a hash that is no safe one; the process's own randomness else."""
    assert hasher(algorithm, version, hashSeed=seed).none_hash == none_hash


def test_extra_keys_are_tagged_since_0_31() -> None:
    """A salt is in the first block's hash, and so in all that follow."""
    assert hasher(version="0.31").extra_keys(counting(salt="t")) == (("cache_salt", "t"),)
    assert hasher(version="0.30").extra_keys(counting(salt="t")) == ("t",)
    assert hasher().extra_keys(counting()) is None


def test_an_adapter_is_in_the_hash_of_every_block_a_salt_in_the_first() -> None:
    """By its name and path since 0.31, before by its name; in this order, and by name alone in KV events."""
    sql = Adapter(3, "sql", "/adapters/sql", 8)
    seq = counting(salt="t", lora=sql)
    for version, lora, salt in (
        ("0.31", ("lora", "sql", "/adapters/sql"), ("cache_salt", "t")),
        ("0.30", "sql", "t"),
    ):
        it = hasher(version=version)
        seq.block_hashes.clear()
        tokens = tuple(range(32))
        first = hashlib.sha256(pickle.dumps((it.none_hash, tokens[:16], (lora, salt)), 5)).digest()
        assert it.following(seq) == first
        assert it.following(seq) == hashlib.sha256(pickle.dumps((first, tokens[16:], (lora,)), 5)).digest()
        assert [it.shown_keys(seq, index) for index in (0, 1)] == [("sql", "t"), ("sql",)]


def test_it_makes_no_difference_where_the_prompt_ends() -> None:
    """A block may lie in the prompt, in the answer or across the border."""
    hashes = []
    for prompt in (1, 15, 16, 17, 31, 32, 33, 48):
        made, seq = hasher(), counting(prompt)
        hashes.append([made.following(seq) for _ in range(3)])
    assert all(one == hashes[0] for one in hashes)
