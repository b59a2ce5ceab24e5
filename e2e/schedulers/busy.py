"""Requests that keep a pod busy for as long as a block lasts, and one whose server ends under it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import httpx


class Busy:
    """Sends requests to servers, each again when it was answered, and takes all of them back when the block ends."""

    def __init__(self, *requests: tuple[str, Mapping[str, Any]]) -> None:
        """`requests` are base URLs and bodies of `/v1/completions`."""
        self._requests = requests
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.add(*self._requests)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, *requests: tuple[str, Mapping[str, Any]]) -> None:
        """Send more of them."""
        asyncio.run_coroutine_threadsafe(self._begin(requests), self._loop).result()

    async def _begin(self, requests: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        self._tasks += [asyncio.create_task(self._send(url, body)) for url, body in requests]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        troubles = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
        assert not troubles, troubles

    @staticmethod
    async def _send(url: str, body: Mapping[str, Any]) -> None:
        async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
            while True:
                (await client.post(f"{url}/v1/completions", json={"ignore_eos": True, **body})).raise_for_status()


def cut_short(url: str, body: Mapping[str, Any], kill: Callable[[], None]) -> bytes:
    """What a client of the server at `url` still gets of a stream, once it began and `kill` ended the server."""
    with (
        httpx.Client(timeout=60, trust_env=False) as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as stream,
    ):
        received = stream.iter_raw()
        assert next(received)
        kill()
        try:
            return b"".join(received)
        except httpx.HTTPError:
            return b""
