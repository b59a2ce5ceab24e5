"""Server processes for statements of vLLM's contract, and a client for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.served import Serve, Served, servers

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
INSTANT = ("--time-to-first-token", "0", "--inter-token-latency", "0", "--mode", "echo", "--max-model-len", "512")


@dataclass
class Vllm:
    """A client of one server that is taken for a vLLM."""

    served: Served
    client: httpx.Client

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers={key.replace("_", "-"): text for key, text in headers.items()})

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def chat(self, text: str = "Hello there", **fields: Any) -> httpx.Response:
        return self.post(CHAT, {"messages": [{"role": "user", "content": text}], **fields})

    def completion(self, prompt: Any = "Hello there", **fields: Any) -> httpx.Response:
        return self.post(COMPLETIONS, {"prompt": prompt, **fields})

    def chat_chunks(self, text: str = "Hello there", **fields: Any) -> list[Any]:
        """The chunks of a streamed chat; `[DONE]` must be the last and is left out."""
        return chunks_of(self.chat(text, stream=True, **fields))

    def completion_chunks(self, prompt: Any = "Hello there", **fields: Any) -> list[Any]:
        """The chunks of a streamed completion."""
        return chunks_of(self.completion(prompt, stream=True, **fields))

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels as they are written."""
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics").text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    def value(self, name: str, **labels: str) -> float:
        """The value of the one sample of this name that has these labels."""
        found = [
            value
            for sample, value in self.metrics().items()
            if sample.split("{")[0] == name and all(f'{key}="{text}"' in sample for key, text in labels.items())
        ]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]


def chunks_of(response: httpx.Response) -> list[Any]:
    """The data of every frame before `[DONE]`."""
    assert response.status_code == 200, response.text
    *data, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


def refused(response: httpx.Response) -> tuple[int, str, str, str | None]:
    """Status, type, message and param of an error, whose body must be of vLLM's shape."""
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    error = body["error"]
    assert error["code"] == response.status_code
    return response.status_code, error["type"], error["message"], error["param"]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the session."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start


def _client(served: Served) -> Iterator[Vllm]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield Vllm(served, client)


@pytest.fixture(scope="session")
def plain(serve: Serve) -> Iterator[Vllm]:
    """A server without optional flags that echoes at once; 512 tokens of context."""
    yield from _client(serve(*INSTANT))


@pytest.fixture(scope="session")
def full(serve: Serve) -> Iterator[Vllm]:
    """A server with every optional flag that adds something, in development mode."""
    yield from _client(
        serve(
            *INSTANT,
            "--enable-prompt-tokens-details",
            "--enable-per-request-metrics",
            "--enable-request-id-headers",
            "--enable-server-load-tracking",
            "--enable-force-include-usage",
            "--enable-tokenizer-info-endpoint",
            environment={"VLLM_SERVER_DEV_MODE": "1"},
        )
    )


@pytest.fixture(scope="session")
def guarded(serve: Serve) -> Iterator[Vllm]:
    """A server that wants the API key `secret`."""
    yield from _client(serve(*INSTANT, "--api-key", "secret"))


@pytest.fixture(scope="session")
def narrow(serve: Serve) -> Iterator[Vllm]:
    """A server with two slots and at most one request in its queue, 5 ms per token."""
    yield from _client(
        serve(
            *("--time-to-first-token", "20ms", "--inter-token-latency", "5ms", "--max-num-seqs", "2"),
            *("--max-num-queued-reqs", "3", "--max-model-len", "2048"),
        )
    )
