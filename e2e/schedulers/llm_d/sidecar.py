"""llm-d's sidecar in front of a server that decodes: it performs what the picker decided, by a connector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.apiserver import control_plane
from tests.served import Served

from e2e.conftest import until


@dataclass(frozen=True)
class Connector:
    """How the two sides find each other."""

    sidecar: str
    """The sidecar's name of it."""
    ours: str
    """That of `--kv-transfer-config`."""
    port_flag: str
    """Flag of a server for the port on which it is asked for blocks."""
    sidecar_flag: str = ""
    """Flag of the sidecar for that port, where it has one."""
    sidecar_variable: str = ""
    """Or its variable."""
    dialect: str = "vllm"

    def flags(self, role: str, port: int) -> list[str]:
        """Of a server with a role, `kv_producer` or `kv_consumer`."""
        config = json.dumps({"kv_connector": self.ours, "kv_role": role})
        return ["--kv-transfer-config", config, self.port_flag, str(port), "--dialect", self.dialect]


@contextmanager
def in_front_of(
    decode: Served, program: Path, connector: Connector, port: int, log: Path, *flags: str
) -> Iterator[str]:
    """A sidecar as `host:port`, until the block ends; `port` is that of the prefilling side's blocks."""
    (own,) = control_plane.free_ports(1)
    command = [str(program), f"--port={own}", f"--model-server-port={decode.port}", "--secure-proxy=false"]
    command += [f"--kv-connector={connector.sidecar}", *flags]
    if connector.sidecar_flag:
        command.append(f"{connector.sidecar_flag}={port}")
    variables = {connector.sidecar_variable: str(port)} if connector.sidecar_variable else {}
    with control_plane.process(command, log, variables) as process:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                return httpx.get(f"http://127.0.0.1:{own}/health", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        until("the sidecar answers", answers)
        yield f"127.0.0.1:{own}"


def endpoints_file(folder: Path, engine: str = "vllm", **roles: str) -> Path:
    """A file for the picker: `host:port` by role, of servers that show themselves as an engine."""
    path = folder / "endpoints.yaml"
    listed = [
        {
            "name": role,
            "namespace": "default",
            "address": place.partition(":")[0],
            "port": place.partition(":")[2],
            "labels": {"llm-d.ai/role": role, "llm-d.ai/engine-type": engine},
        }
        for role, place in roles.items()
    ]
    path.write_text(json.dumps({"endpoints": listed}))
    return path
