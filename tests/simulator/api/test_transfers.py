"""`kv_transfer_params` of a request decide what its first token waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Start

ELSEWHERE = {"do_remote_prefill": True, "do_remote_decode": False, "remote_host": "10.0.0.1"}
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "kv_transfer_params": ELSEWHERE}),
        ("/v1/chat/completions", {**CHAT, "kv_transfer_params": ELSEWHERE, "stream": True}),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 2, "kv_transfer_params": ELSEWHERE}),
        (
            "/inference/v1/generate",
            {"token_ids": [5, 6], "sampling_params": {"max_tokens": 2}, "kv_transfer_params": ELSEWHERE},
        ),
        (
            "/inference/v1/generate",
            {"token_ids": [5, 6], "sampling_params": {"extra_args": {"kv_transfer_params": ELSEWHERE}}},
        ),
    ],
)
async def test_a_prompt_that_was_computed_elsewhere_waits_for_its_transfer(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    """And not for the time to the first token, which is much longer here."""
    simple = {"timeToFirstToken": "60s", "kvCacheTransferLatency": "10ms"}
    running = await start(profile={"simple": simple})
    async with asyncio.timeout(20):
        assert (await running.post(path, body)).status_code == 200


@pytest.mark.parametrize("params", [None, {}, {"do_remote_prefill": False, "do_remote_decode": True}])
async def test_any_other_prompt_is_computed_here(start: Start, params: dict[str, Any] | None) -> None:
    running = await start(profile={"simple": {"timeToFirstToken": "300ms", "kvCacheTransferLatency": "60s"}})
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(20):
        assert (await running.post("/v1/chat/completions", {**CHAT, "kv_transfer_params": params})).status_code == 200
    assert asyncio.get_running_loop().time() - began >= 0.3
