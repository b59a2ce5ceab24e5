"""The picker as a process, and what it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.apiserver import control_plane

from e2e.conftest import until
from e2e.ext_proc.picker import Client, Picker

Plugin = str | Mapping[str, Any]
"""Its type, or an object with `type` and `parameters`."""
Profiles = Mapping[str, Sequence[str]]
"""Types of plugins by name of a scheduling profile."""
_ARGUMENTS = (
    *("--pool-name=fleet", "--pool-namespace=default", "--secure-serving=false", "--tracing=false"),
    *("--emit-endpoint-scores", "--refresh-metrics-interval=100ms", "--refresh-prometheus-metrics-interval=200ms"),
)
_NOTIFIED = "precise-prefix-cache-producer"
"""The plugin that has to be told of endpoints that come and go."""


@dataclass(frozen=True)
class LlmdPicker(Picker):
    """One that runs."""

    url: str
    """Base URL of its metrics."""

    def value(self, name: str, **labels: str) -> float:
        """Of a metric, `llm_d_epp_` left out, all series with these labels together; 0 where there is none."""
        text = httpx.get(f"{self.url}/metrics", timeout=30, trust_env=False).raise_for_status().text
        series = re.findall(rf"^llm_d_epp_{name}({{.*}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for told, value in series if all(label in told for label in wanted))

    def scores(self, body: Mapping[str, Any], **more: Any) -> dict[str, float]:
        """What each endpoint is worth for a request, 0 to the number of scorers."""
        told = self.ask(body, **more).metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"]
        return {endpoint: float(score) for endpoint, score in told.items()}


@contextmanager
def running(
    program: Path,
    client: Client,
    folder: Path,
    endpoints: Path,
    plugins: Sequence[Plugin],
    profiles: Profiles,
    flags: Sequence[str],
) -> Iterator[LlmdPicker]:
    """A picker until the block ends; it knows all that the file of endpoints lists.

    Without `profiles` there is one, with all scorers.
    """
    file, log = folder / "epp.yaml", folder / "epp.log"
    file.write_text(json.dumps(configuration(endpoints, plugins, profiles)))
    grpc, health, metrics = control_plane.free_ports(3)
    command = [str(program), f"--config-file={file}", *_ARGUMENTS, *flags]
    command += [f"--grpc-port={grpc}", f"--grpc-health-port={health}", f"--metrics-port={metrics}"]
    with control_plane.process(command, log) as process:
        picker = LlmdPicker(client, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{metrics}")

        def knows_all() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                return picker.value("ready_endpoints") == len(listed(endpoints))
            except httpx.HTTPError:
                return False

        until("the picker knows every endpoint", knows_all, 120)
        yield picker


def listed(endpoints: Path) -> list[dict[str, Any]]:
    """What a file of endpoints has."""
    found: list[dict[str, Any]] = json.loads(endpoints.read_text())["endpoints"]
    return found


def configuration(endpoints: Path, plugins: Sequence[Plugin], profiles: Profiles) -> dict[str, object]:
    """The picker's configuration file."""
    objects = [{"type": plugin} if isinstance(plugin, str) else dict(plugin) for plugin in plugins]
    names = [plugin["type"] for plugin in objects]
    discovery = {"name": "fleet", "type": "file-discovery", "parameters": {"path": str(endpoints), "watchFile": True}}
    data_layer: dict[str, object] = {"discovery": {"pluginRef": "fleet"}}
    if _NOTIFIED in names:
        objects.append({"type": "endpoint-notification-source"})
        source = {"pluginRef": "endpoint-notification-source", "extractors": [{"pluginRef": _NOTIFIED}]}
        data_layer["sources"] = [source]
    scorers = {"default": [name for name in names if name.endswith("-scorer")]}
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [discovery, *objects],
        "schedulingProfiles": [
            {"name": profile, "plugins": [{"pluginRef": name} for name in chosen]}
            for profile, chosen in (profiles or scorers).items()
        ],
        "dataLayer": data_layer,
    }
