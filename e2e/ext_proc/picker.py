"""An endpoint picker as tests ask it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from e2e.ext_proc import environment

DESTINATION: Final = "x-gateway-destination-endpoint"
_PROGRAM: Final = Path(__file__).with_name("asking.py")


@dataclass(frozen=True)
class Decision:
    """What a picker said to a request: where it goes, as `host:port`, or the status with which it is refused."""

    endpoint: str | None
    refused: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that it sets: on the request, or on the refusal."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What it tells the proxy beside."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """What the client process told."""
        headers = told["headers"]
        return cls(headers.get(DESTINATION), told.get("refused"), headers, told.get("metadata", {}))


@dataclass(frozen=True)
class Passed:
    """An answer as a picker lets it through."""

    body: str
    headers: Mapping[str, str]
    """Headers that it sets on it."""


class Client:
    """The process that speaks gRPC; one for all pickers."""

    def __init__(self) -> None:
        """Starts it. Raises Failure where its environment cannot be made."""
        command = [environment.python(), _PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, op: str, **fields: Any) -> Any:
        """One command to the process."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the client has no pipes")
        self._process.stdin.write(json.dumps({"op": op} | fields) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(20)


@dataclass(frozen=True)
class Picker:
    """One endpoint picker at `host:port`."""

    client: Client
    address: str

    def ask(
        self,
        body: Mapping[str, Any],
        *,
        path: str = "/v1/completions",
        headers: Mapping[str, str] | None = None,
        hold: str = "",
    ) -> Decision:
        """Where a request goes; with `hold` it counts as one on its way until `answer` or `drop`."""
        request = {"path": path, "headers": dict(headers or {}), "body": dict(body)}
        (told,) = self.client.call("ask", address=self.address, requests=[request], hold=hold)
        return Decision.of(told)

    def spread(self, body: Mapping[str, Any], times: int, **more: Any) -> Counter[str | None]:
        """How often each endpoint is picked for the same request, asked for `times` times; None is a refusal."""
        request = {"path": more.get("path", "/v1/completions"), "headers": more.get("headers", {}), "body": dict(body)}
        told = self.client.call("ask", address=self.address, requests=[request] * times)
        return Counter(Decision.of(each).endpoint for each in told)

    def answer(self, name: str, headers: Mapping[str, str], chunks: Sequence[str]) -> Passed:
        """Tell it the answer to a held request, in these chunks."""
        return Passed(**self.client.call("answer", name=name, headers=dict(headers), chunks=list(chunks)))

    def drop(self, name: str) -> None:
        """End a held request without an answer."""
        self.client.call("drop", name=name)
