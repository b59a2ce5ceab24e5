"""Who decodes every batch from number 0 knows what the engine has: by tier, in each encoding, whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.kv_events.encoding import encoder_of, shown_as_number, shown_as_signed

BLOCK = 4
LORAS = [None, Adapter(1, "a", "/a", 8), Adapter(2, "b", "/b", 8)]
FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")


@dataclass
class Clock:
    """Where a run is."""

    now_us: int = 0
    steps: int = 0


Show = Callable[[bytes], int | bytes]


def whole(block_hash: bytes) -> bytes:
    return block_hash


ENCODINGS: dict[str, tuple[dict[str, Any], bool, Show, dict[str, str]]] = {
    "0.12 as numbers": ({"version": "0.12"}, True, shown_as_number, {}),
    "0.23 as bytes": ({"version": "0.23"}, False, whole, {}),
    "0.33 as numbers": ({"version": "0.33"}, True, shown_as_number, {}),
    "0.33 as bytes": ({"version": "0.33"}, False, whole, {}),
    "SGLang": ({"dialect": "SGLang"}, True, shown_as_signed, {"CPU_PINNED": "CPU", "DISK": "STORAGE"}),
}

Request = tuple[int, int, int, int, bool]
requests = st.lists(
    st.tuples(
        st.integers(0, 3),  # which beginning it has
        st.integers(1, 40),  # tokens of its prompt
        st.integers(1, 24),  # tokens of its answer
        st.integers(0, 2),  # its adapter
        st.booleans(),  # whether its client goes away amid it
    ),
    min_size=1,
    max_size=12,
)


class Subscriber:
    """Knows of blocks only what it reads."""

    def __init__(self, media: dict[str, str]) -> None:
        self.media = media
        self.blocks: dict[str, Counter[int | bytes]] = {medium: Counter() for medium in ("GPU", "CPU", "STORAGE")}
        self.adapters: set[str | None] = set()

    def read(self, payload: bytes) -> None:
        _, events, _ = msgspec.msgpack.decode(payload)
        for event in events:
            fields = event if isinstance(event, dict) else self._named(event)
            if fields["type"] == "AllBlocksCleared":
                self.blocks["GPU"].clear()
                continue
            medium = fields["medium"]
            held = self.blocks[self.media.get(medium, medium)]
            if fields["type"] == "BlockStored":
                self.adapters.add(fields.get("lora_name"))
                held.update(fields["block_hashes"])
                continue
            for block_hash in fields["block_hashes"]:
                assert held[block_hash], "a block goes that never came"
                held[block_hash] -= 1
            self.blocks[self.media.get(medium, medium)] = +held

    @staticmethod
    def _named(event: list[Any]) -> dict[str, Any]:
        kind, *values = event
        names = FIELDS if kind == "BlockStored" else ("block_hashes", "medium")
        return {"type": kind, **dict(zip(names, values, strict=False))}


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(plan=requests, blocks=st.integers(17, 40), resets=st.sets(st.integers(1, 60), max_size=3))
def test_replaying_every_batch_rebuilds_what_the_engine_has(
    encoding: str, plan: list[Request], blocks: int, resets: set[int]
) -> None:
    """After each step on the GPU, copies counted; at the end in host memory and on disk as well."""
    shown_engine, numbers, show, media = ENCODINGS[encoding]
    config = ServerConfig.model_validate(
        {
            "model": {"name": "m", "maxModelLen": 64},
            "engine": shown_engine,
            "kvCache": {
                "blocks": blocks,
                "blockSize": BLOCK,
                "bytesPerToken": "1Ki",
                "tiers": [{"medium": "CPU", "capacity": "64Ki"}, {"medium": "Disk", "capacity": "96Ki"}],
            },
            "kvEvents": {"enableKvCacheEvents": True, "intBlockHashes": numbers},
            "lora": {"enabled": True, "maxLoras": 2},
            "scheduling": {"maxNumSeqs": 4, "maxNumBatchedTokens": 32},
            "profile": {"backend": "StepTime", "stepTime": {"baseUs": 1000}},
        }
    )
    engine, subscriber, encoder = Engine(config, entropy=bytes(32)), Subscriber(media), encoder_of(config, 0)
    engine.use_lora(config.lora)
    kept: list[bytes] = []
    clock = Clock()

    def advance() -> bool:
        clock.steps += 1
        if clock.steps in resets:
            engine.reset_prefix_cache(reset_running_requests=True)
        step = engine.advance(clock.now_us)
        if step.cache_events:
            kept.append(encoder.encode(clock.now_us / 1e6, step.cache_events))
            subscriber.read(kept[-1])
        if not engine._scheduler.events:  # what a reset has left to tell waits for a step
            assert subscriber.blocks["GPU"] == Counter(show(block_hash) for block_hash in engine.cached_blocks)
        clock.now_us = max(step.wake_us or 0, clock.now_us + 1)
        return step.wake_us is not None

    for number, (beginning, length, answer, lora, leaves) in enumerate(plan):
        prompt = [beginning * 1000 + index for index in range(length)]
        seq = Sequence(str(number), prompt, Answer(answer), clock.now_us, lora=LORAS[lora])
        engine.add(seq, clock.now_us)
        for _ in range(3):
            advance()
        if leaves:
            engine.abort(seq)
    while advance():
        assert clock.steps < 5000
    kept.append(encoder.encode(clock.now_us / 1e6, engine._scheduler.events or []))

    late = Subscriber(media)
    for payload in kept:
        late.read(payload)
    tiers = engine._scheduler.tiers
    assert tiers is not None
    assert tiers._disk is not None
    assert late.blocks == {
        "GPU": Counter(map(show, engine.cached_blocks)),
        "CPU": Counter(map(show, tiers._host._ready)),
        "STORAGE": Counter(map(show, tiers._disk._ready)),
    }
