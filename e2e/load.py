"""Clients that stream from a Service while something happens to its pods."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final, Self

import httpx
import openai

CLIENTS, TOKENS = 4, 100
WHOLE: Final = f"length after {TOKENS} tokens"
"""How a stream ends that nothing befell."""


class Load:
    """Clients that stream one answer of 2.1 s after the other, each over a connection of its own."""

    def __init__(self, base_url: str, model: str) -> None:
        self._base_url = base_url
        self._model = model
        self._stop = threading.Event()
        self.endings: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
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
                self.endings[self._stream()] += 1
            except (openai.OpenAIError, httpx.HTTPError) as error:
                self.endings[f"{type(error).__name__}: {error}"] += 1

    def _stream(self) -> str:
        with openai.OpenAI(base_url=self._base_url, api_key="none", max_retries=0, timeout=30) as client:
            tokens, reason = 0, ""
            for chunk in client.completions.create(
                model=self._model,
                prompt="hello",
                max_tokens=TOKENS,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            ):
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                reason = chunk.choices[0].finish_reason or reason if chunk.choices else reason
        return f"{reason} after {tokens} tokens"
