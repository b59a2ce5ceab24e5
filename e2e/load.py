"""Clients that send requests while something happens to those who serve them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

import httpx
import openai

CLIENTS, TOKENS = 4, 100
WHOLE: Final = f"length after {TOKENS} tokens"
"""How a stream ends that nothing befell."""


class Load:
    """Clients that send one request after the other until the block ends, and how each of them ended."""

    def __init__(self, clients: int, send: Callable[[], str]) -> None:
        """`send` sends one request and says how it ended; errors of HTTP are endings, too."""
        self._send = send
        self._stop = threading.Event()
        self._begun = 0.0
        self.endings: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.endings[self._send()] += 1
            except (openai.OpenAIError, httpx.HTTPError) as error:
                moment = time.monotonic() - self._begun
                self.endings[f"{type(error).__name__}: {error} ({moment:.1f} s after the start)"] += 1


def streams(base_url: str, model: str) -> Load:
    """Clients that stream answers of 2.1 s from a Service, each over a connection of its own."""
    return Load(CLIENTS, lambda: _stream(base_url, model))


def _stream(base_url: str, model: str) -> str:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=30) as client:
        tokens, reason = 0, ""
        for chunk in client.completions.create(
            model=model,
            prompt="hello",
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ):
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            reason = chunk.choices[0].finish_reason or reason if chunk.choices else reason
    return f"{reason} after {tokens} tokens"
