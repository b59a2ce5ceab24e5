"""Hashes of full blocks, chained, byte for byte those of vLLM, or of SGLang.

Source: vLLM 0.33 v1/core/kv_cache_utils.py and utils/hashing.py. A hash is that of `(hash of the block before, token
ids, extra keys)`; what stands before the first block depends on a seed.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import cbor2
import xxhash

from ghostfleet_simulator.config import Dialect, FixedConfig, HashAlgorithm
from ghostfleet_simulator.engine.sequence import Sequence

_PICKLE_PROTOCOL: Final = 5
"""`pickle.HIGHEST_PROTOCOL` of every Python that vLLM runs on."""

_FIXED_SEED: Final = "vllm-none-hash"


def _sha256(value: Any) -> bytes:
    return sha256(pickle.dumps(value, _PICKLE_PROTOCOL)).digest()


def _sha256_cbor(value: Any) -> bytes:
    return sha256(cbor2.dumps(value, canonical=True)).digest()


def _xxhash(value: Any) -> bytes:
    return xxhash.xxh3_128_digest(pickle.dumps(value, _PICKLE_PROTOCOL))


def _xxhash_cbor(value: Any) -> bytes:
    return xxhash.xxh3_128_digest(cbor2.dumps(value, canonical=True))


def _sglang(value: tuple[bytes, Any, tuple[Any, ...] | None]) -> bytes:
    """SGLang 0.5.10's (mem_cache/hicache_storage.py, get_hash_str), of tokens as 32-bit numbers.

    It hashes no extra keys, for it keeps what they tell apart in caches of their own; here they are put behind.
    """
    before, tokens, extra_keys = value
    content = before + struct.pack(f"<{len(tokens)}I", *tokens)
    return sha256(content + pickle.dumps(extra_keys, _PICKLE_PROTOCOL) if extra_keys else content).digest()


_FUNCTIONS: Final[dict[HashAlgorithm, Callable[[Any], bytes]]] = {
    HashAlgorithm.SHA256: _sha256,
    HashAlgorithm.SHA256_CBOR: _sha256_cbor,
    HashAlgorithm.XXHASH: _xxhash,
    HashAlgorithm.XXHASH_CBOR: _xxhash_cbor,
}
_COLLISION_RESISTANT: Final = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA256_CBOR})


class BlockHasher:
    """Hashes the blocks of sequences, one at a time and each once; they are kept in `Sequence.block_hashes`."""

    def __init__(self, config: FixedConfig, entropy: bytes) -> None:
        """`entropy` stands for `os.urandom(32)` where vLLM makes its seed of it, in every process another one."""
        cache, conduct = config.kv_cache, config.engine.conduct
        algorithm = cache.prefix_caching_hash_algo
        self._block_size = cache.block_size
        self._function: Callable[[Any], bytes] = _FUNCTIONS[algorithm]
        self._tagged = conduct.tagged_extra_keys
        if config.engine.dialect is Dialect.SGLANG:
            self._function, self.none_hash = _sglang, b""
            return
        seed = cache.hash_seed
        if seed is None and conduct.fixed_hash_seed:
            seed = _FIXED_SEED if algorithm in _COLLISION_RESISTANT else entropy.hex()
        self.none_hash = entropy if seed is None else self._function(seed)
        """What the first block of every sequence is chained to."""

    def following(self, seq: Sequence) -> bytes:
        """The hash of the first block of `seq` that has none yet, which must be full."""
        hashes = seq.block_hashes
        index = len(hashes)
        begin = index * self._block_size
        tokens = seq.tokens(begin, begin + self._block_size)
        block_hash = self._function((hashes[-1] if index else self.none_hash, tokens, self.extra_keys(seq, index)))
        hashes.append(block_hash)
        return block_hash

    def extra_keys(self, seq: Sequence, index: int = 0) -> tuple[Any, ...] | None:
        """What tells block `index` of `seq` from one with the same tokens.

        Since 0.31 vLLM says of each key what it is, and of an adapter also the path.
        """
        if seq.lora is None and (index or not seq.cache_salt):
            return None
        keys: list[Any] = []
        if (lora := seq.lora) is not None:
            keys.append(("lora", lora.name, lora.path) if self._tagged else lora.name)
        if seq.cache_salt and not index:
            keys.append(("cache_salt", seq.cache_salt) if self._tagged else seq.cache_salt)
        return tuple(keys)

    def shown_keys(self, seq: Sequence, index: int) -> tuple[str, ...] | None:
        """The extra keys of block `index` as KV events tell them: without tags, whatever is in the hash."""
        names = (seq.lora.name,) if seq.lora is not None else ()
        salt = (seq.cache_salt,) if seq.cache_salt and index == 0 else ()
        return names + salt or None
