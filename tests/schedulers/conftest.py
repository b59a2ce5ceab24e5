"""llm-d's KV-event index as a process: real subscribers, a real index, real scores."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.build import binaries
from e2e.shell import Failure
from tests.served import Serve, servers


class Index:
    """Talks to `e2e/build/kvindex` in lines of JSON."""

    def __init__(self, program: Path, engine: str = "vllm") -> None:
        """`engine` is the one whose events are read."""
        self.process = subprocess.Popen(
            [program, engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, op: str, **fields: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"op": op} | fields) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def score(self, pod: str, tokens: list[int], model: str = "m") -> float:
        """How many blocks, by weight, the index believes a server to have of a prompt."""
        return float((self.ask("score", model=model, tokens=tokens) or {}).get(pod, 0))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture(scope="session")
def index_program() -> Path:
    try:
        return binaries.ensure(["kvindex"]) / "kvindex"
    except Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"llm-d's index must run in CI: {error}", pytrace=False)
        pytest.skip(f"llm-d's index cannot be built: {str(error).splitlines()[0]}")


@pytest.fixture
def index(index_program: Path) -> Iterator[Index]:
    made = Index(index_program)
    yield made
    made.close()


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the test."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start
