"""Block hashes against constants, for every algorithm.

The constants were made with vLLM 0.33's own functions, `get_hash_fn_by_name` of vllm/utils/hashing.py and
`hash_block_tokens` of v1/core/kv_cache_utils.py, with xxhash 4.1.0 and cbor2 6.2.1 from PyPI: blocks of 16 tokens that
count from 0, PYTHONHASHSEED=42, without and with the cache salt `tenant`.
"""

from __future__ import annotations

import pytest
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.sequence import Sequence


@pytest.mark.parametrize(
    ("algorithm", "none_hash", "plain", "salted"),
    [
        (
            "sha256",
            "c0bc02c9fc92a4944335649961b9e55cc41b194bece4801e8c6ef0f0f3f5884a",
            (
                "63921f8159563637aa932c18cfc4224074360df1a31b1c60a90e3b9363805a81",
                "9419cbcf7b3751d011333106a25c6692d48f14cb43c1511464dc379737411232",
            ),
            (
                "de97a25d3636f51cd78bc20566ec5a1dd70c6064f835493647fa298dcd74b3ca",
                "0e8b6a7ea4f4fc3d11a633303de523234ccec5a693d35087f726dbdf0aa99fb8",
            ),
        ),
        (
            "sha256_cbor",
            "9fa6eb003f14425eb9c8e6baacfbcaab26257357b829c7bfa74ffcc4f31c1780",
            (
                "63876f948a5f9ef88191c7d6554fbeeea5c622d4da15d0d527bd352623590b0d",
                "78a71559304e96e785d46658e382ff9b8b5f10f918102e3ac1b4060a29bae320",
            ),
            (
                "b81bbc3d1b8b543d988f41b8eb928a090dde4cbbf3554fd6b73e6039be2299d9",
                "f8844567b7d5cab80d7d3030fb1732951e3dbca7fe9e573b9d21ac58401de0b8",
            ),
        ),
        (
            "xxhash",
            "b6cdd80ea04b31ad0b9fc22fff500882",
            ("51c09bc039b52f38b3318efa733bdfca", "71faf6771cc1bd18809015191ef82685"),
            ("fe0744fea4e748eebbfd67e48373efda", "5b633a95e0f3aaf7420679b9d4ddc97f"),
        ),
        (
            "xxhash_cbor",
            "a9d2e63407fce1a26c9dc9d7fa2d7caf",
            ("6efc8ab550d01924572df847da62bd96", "dd4a1f893f4dc3bdf86c85561fed34c4"),
            ("bc7f73c7d5a7207335a14c8fe7005a63", "513cc5cfcee837c90be1238f8db31ee3"),
        ),
    ],
)
@pytest.mark.parametrize("salt", [None, "tenant"])
def test_the_hashes_are_those_of_vllm(
    algorithm: str, none_hash: str, plain: tuple[str, str], salted: tuple[str, str], salt: str | None
) -> None:
    """Of what stands before the first block, and of the first two; a salt is in the first and so in all."""
    cache = {"prefixCachingHashAlgo": algorithm, "hashSeed": "42"}
    hasher = BlockHasher(ServerConfig.model_validate({"model": {"name": "m"}, "kvCache": cache}), bytes(32))
    seq = Sequence("s", list(range(32)), Answer(1), 0, cache_salt=salt)
    assert hasher.none_hash.hex() == none_hash
    assert (hasher.following(seq).hex(), hasher.following(seq).hex()) == (salted if salt else plain)
