"""The load client: `client.c` compiled once, run against a server, its answer as numbers.

Times are seconds unless a name ends in `_us` or `_ms`; sizes are bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

SOURCE: Final = Path(__file__).with_name("client.c")
COMPILE: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
PROMPT: Final = "Tell me, in as many words as you like, how a ship without a crew finds its way home through the fog."


class BenchError(Exception):
    """Why a measurement could not be made; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does: `streams` at a time, each of `max_tokens`, over and over.

    `itl_ms` is None for a server that paces nothing: then no times are taken. Without `stream` an answer comes in one
    piece. After `warm_up` seconds, `window` seconds
    are measured.
    """

    streams: int
    max_tokens: int
    ttft_ms: float | None = None
    itl_ms: float | None = None
    warm_up: float = 2.0
    window: float = 10.0
    stream: bool = True

    @classmethod
    def paced(
        cls,
        streams: int,
        *,
        max_tokens: int,
        ttft_ms: float,
        itl_ms: float,
        warm_up: float = 2.0,
        window: float | None = None,
    ) -> Self:
        """A paced load whose window, unless given, is one cycle and the ramp: every stream ends and begins in it."""
        if window is None:
            window = (ttft_ms + (max_tokens - 1) * itl_ms) / 1000 + warm_up / 2
        return cls(streams, max_tokens, ttft_ms, itl_ms, warm_up, window)

    @property
    def ramp(self) -> float:
        """The time over which the first requests are spread: half the warm-up."""
        return self.warm_up / 2

    @property
    def expected_rate(self) -> float | None:
        """Tokens per second of a server that is exactly on time and loses nothing between requests; None if unpaced."""
        if self.ttft_ms is None or self.itl_ms is None:
            return None
        return self.streams * self.max_tokens / ((self.ttft_ms + (self.max_tokens - 1) * self.itl_ms) / 1000)


@dataclass(frozen=True, slots=True)
class Errors:
    """Distribution of absolute errors, microseconds; `mean_signed` is the mean with sign: how far the pace drifts."""

    count: int
    mean_signed: float
    mean: float
    p50: int
    p99: int
    p999: int
    max: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident and proportional set size, bytes."""

    rss: int
    pss: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the client saw in its window; `client.c` says what each number is."""

    streams: int
    window_s: float
    tokens: int
    events: int
    merged: int
    requests: int
    requests_without_usage: int
    server_cpu_s: float
    client_cpu_s: float
    other_cpu_s: float
    steal_s: float
    memory_before: Memory
    memory_after: Memory
    gap_error_us: Errors | None = None
    ttft_error_us: Errors | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the client's JSON object."""
        data: dict[str, Any] = json.loads(text)
        for name in ("memory_before", "memory_after"):
            data[name] = Memory(**data[name])
        for name in ("gap_error_us", "ttft_error_us"):
            if name in data:
                data[name] = Errors(**data[name])
        return cls(**data)

    @property
    def cpu_us_per_token(self) -> float:
        """Server CPU time per token, microseconds."""
        return self.server_cpu_s * 1e6 / self.tokens

    @property
    def tokens_per_s(self) -> float:
        """Tokens that arrived per second of the window."""
        return self.tokens / self.window_s

    @property
    def cpu_us_per_request(self) -> float:
        """Server CPU time per finished request, microseconds; NaN if none finished."""
        return self.server_cpu_s * 1e6 / self.requests if self.requests else float("nan")

    @property
    def requests_per_s(self) -> float:
        """Requests that finished per second of the window."""
        return self.requests / self.window_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server answers and which processes do the work."""

    host: str
    port: int
    prefix: str
    model: str
    pids: tuple[int, ...]


def cache_folder() -> Path:
    """Where the compiled client is kept: `bench/` in `$GHOSTFLEET_CACHE`, by default `~/.cache/ghostfleet`."""
    return Path(os.environ.get("GHOSTFLEET_CACHE") or Path.home() / ".cache" / "ghostfleet") / "bench"


def compiled(folder: Path, environment: Mapping[str, str] = os.environ, *, source: Path = SOURCE) -> Path:
    """Path of the compiled client in `folder`; it is compiled on first use and again when its source changes.

    Raises:
        BenchError: no C compiler, or it failed.
    """
    digest = hashlib.sha256(source.read_bytes() + " ".join(COMPILE).encode()).hexdigest()[:16]
    binary = folder / f"{source.stem}-{digest}"
    if binary.exists():
        return binary
    compiler = shutil.which("cc", path=environment.get("PATH", ""))
    if compiler is None:
        raise BenchError(
            "the load client needs a C compiler, and there is no `cc`: install the Debian packages gcc and libc6-dev"
        )
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{binary.name}.{os.getpid()}"
    done = subprocess.run([compiler, *COMPILE, "-o", draft, source], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise BenchError(f"the load client did not compile (is the Debian package libc6-dev installed?): {lines[0]}")
    draft.rename(binary)
    return binary


def body(model: str, max_tokens: int, *, stream: bool = True) -> str:
    """The request: a chat completion of exactly `max_tokens`, streamed, with its usage at the end, or in one piece."""
    request: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request)


def measure(binary: Path, endpoint: Endpoint, load: Load, during: Callable[[], None] | None = None) -> Measurement:
    """Put `load` on the server and measure. `during` runs here while the client does its work.

    Raises:
        BenchError: the server answered with anything but complete streams.
    """
    options: dict[str, object] = {
        "host": endpoint.host,
        "port": endpoint.port,
        "path": f"{endpoint.prefix}/v1/chat/completions",
        "body": body(endpoint.model, load.max_tokens, stream=load.stream),
        "streams": load.streams,
        "pids": ",".join(map(str, endpoint.pids)),
        "ramp": load.ramp,
        "warm-up": load.warm_up,
        "window": load.window,
    }
    if load.itl_ms is not None:
        options |= {"itl": load.itl_ms, "ttft": load.ttft_ms or 0}
    command = [str(binary), *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            if during:
                during()
            out, error = client.communicate(timeout=load.warm_up + load.window + 60)
        except BaseException:
            client.kill()
            raise
    if client.returncode:
        raise BenchError((error.strip() or f"the load client ended with {client.returncode}").splitlines()[0])
    result = Measurement.parse(out)
    if not result.tokens:
        raise BenchError(f"not one token in {load.window:g} s from {endpoint.host}:{endpoint.port}")
    return result
