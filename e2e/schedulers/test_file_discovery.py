"""A fleet on a laptop and the endpoint picker of llm-d-router, which needs no Kubernetes: `--epp PATH`.

Its newest releases are in no registry, so these tests run where somebody has built one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import yaml
from tests.apiserver import control_plane

from e2e.conftest import until
from e2e.ext_proc.picker import Client, Decision, Picker
from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import gauge
from ghostfleet_operator.testing import Fleet
from ghostfleet_operator.testing.plugin import StartFleet

TOKENS = [1000 + position * 7 for position in range(64)]
"""A prompt of four blocks."""
EVENTS = {"enableKvCacheEvents": True, "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)"}


class Start(Protocol):
    """Starts a picker on the endpoints of a fleet."""

    def __call__(self, fleet: Fleet, plugins: list[dict[str, Any]], **profiles: list[Any]) -> Picker:
        """A picker with plugins and scheduling profiles, once it knows every replica."""


def objects(**servers: Mapping[str, Any]) -> str:
    """Servers by name, of one model, with a token in 100 ms."""
    return yaml.safe_dump_all(
        {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "metadata": {"name": name},
            "spec": {
                "model": {"name": "m"},
                "profile": {"simple": {"timeToFirstToken": "50ms", "interTokenLatency": "100ms"}},
                **spec,
            },
        }
        for name, spec in servers.items()
    )


def scores(decision: Decision) -> dict[str, float]:
    """What each endpoint was worth."""
    found: dict[str, float] = decision.metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"]
    return found


def endpoint(fleet: Fleet, replica: str) -> str:
    return fleet.urls[replica].removeprefix("http://")


def known(url: str) -> float:
    return gauge(url, "llm_d_epp_ready_endpoints") or 0.0


@pytest.fixture
def start(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> Iterator[Start]:
    """Ends its pickers after the test."""
    program = request.config.getoption("--epp")
    if program is None:
        pytest.skip("needs an endpoint picker of llm-d-router: --epp PATH")
    pickers: list[Any] = []

    @contextmanager
    def running(fleet: Fleet, plugins: list[dict[str, Any]], profiles: Mapping[str, list[Any]]) -> Iterator[Picker]:
        discovery = {"path": str(fleet.endpoints_file), "watchFile": True}
        config = {
            "apiVersion": "llm-d.ai/v1alpha1",
            "kind": "EndpointPickerConfig",
            "plugins": [{"name": "fleet", "type": "file-discovery", "parameters": discovery}, *plugins],
            "schedulingProfiles": [{"name": name, "plugins": refs} for name, refs in profiles.items()],
            "dataLayer": {"discovery": {"pluginRef": "fleet"}, **data_layer(plugins)},
        }
        file, log = tmp_path / "epp.yaml", tmp_path / "epp.log"
        file.write_text(json.dumps(config))
        grpc, health, metrics = control_plane.free_ports(3)
        command = [str(program), "--pool-name=fleet", "--pool-namespace=default", f"--config-file={file}"]
        command += [f"--grpc-port={grpc}", f"--grpc-health-port={health}", f"--metrics-port={metrics}"]
        command += ["--secure-serving=false", "--tracing=false", "--emit-endpoint-scores"]
        command += ["--refresh-metrics-interval=100ms", "--refresh-prometheus-metrics-interval=200ms"]
        with control_plane.process(command, log) as process:
            url = f"http://127.0.0.1:{metrics}"

            def knows_all() -> bool:
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    return known(url) == len(fleet.urls)
                except httpx.HTTPError:
                    return False

            until("the picker knows every replica", knows_all, 120)
            yield Picker(client, f"127.0.0.1:{grpc}")

    def make(fleet: Fleet, plugins: list[dict[str, Any]], **profiles: list[Any]) -> Picker:
        picker = running(fleet, plugins, profiles)
        pickers.append(picker)
        return picker.__enter__()

    yield make
    for picker in pickers:
        picker.__exit__(None, None, None)


def data_layer(plugins: list[dict[str, Any]]) -> dict[str, Any]:
    """Who is told of endpoints that come and go."""
    told = [plugin["type"] for plugin in plugins if plugin["type"] == "precise-prefix-cache-producer"]
    if not told:
        return {}
    return {"sources": [{"pluginRef": "endpoint-notification-source", "extractors": [{"pluginRef": told[0]}]}]}


def test_endpoints_follow_the_fleet(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Three replicas, five, two: decisions are within those that there are."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3}))
    picker = start(fleet, [{"type": "queue-scorer"}], default=[{"pluginRef": "queue-scorer"}])

    def are_picked() -> bool:
        return set(picker.spread({"model": "m", "prompt": "Hi"}, 60)) == {endpoint(fleet, name) for name in fleet.urls}

    for count in (3, 5, 2):
        fleet.apply(objects(alpha={"replicas": count}))
        assert len(fleet.urls) == count
        until(f"{count} replicas are picked", are_picked)


def test_a_queue_is_a_score(ghostfleet_fleet: StartFleet, start: Start) -> None:
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3, "scheduling": {"maxNumSeqs": 1}}))
    picker = start(fleet, [{"type": "queue-scorer"}], default=[{"pluginRef": "queue-scorer"}])
    slow, body = "alpha-1", {"model": "m", "prompt": "Hi"}
    with Busy(*[(fleet.urls[slow], body | {"max_tokens": 1000})] * 6):
        until("it has no score left", lambda: scores(picker.ask(body)).get(endpoint(fleet, slow), 0) == 0)
        assert endpoint(fleet, slow) not in picker.spread(body, 20)
        # Where it went, and what it found there.
        answer = httpx.post(
            f"http://{picker.ask(body).endpoint}/v1/completions", json=body, trust_env=False, timeout=60
        ).json()
        served = fleet.where(answer["id"])
        assert served.replica != slow
        assert served.found_waiting == 0


def test_the_server_that_has_the_prompt_is_picked_by_its_kv_events(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The prompt was sent to it by others than the picker, which hears of it by events alone."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3, "kvEvents": EVENTS}))
    plugins: list[dict[str, Any]] = [
        {
            "type": "precise-prefix-cache-producer",
            "parameters": {
                "tokenProcessorConfig": {"blockSizeTokens": 16},
                "kvEventsConfig": {"discoverPods": True, "podDiscoveryConfig": {"socketPort": 5557}},
            },
        },
        {"type": "endpoint-notification-source"},
        {
            "type": "prefix-cache-scorer",
            "parameters": {"prefixMatchInfoProducerName": "precise-prefix-cache-producer"},
        },
    ]
    picker = start(fleet, plugins, default=[{"pluginRef": "prefix-cache-scorer"}])
    body = {"model": "m", "prompt": TOKENS}

    def goes_there() -> bool:
        # A subscriber that was not yet there when the blocks were stored hears of the next prompt.
        httpx.post(
            f"{fleet.urls['alpha-2']}/v1/completions", json=body | {"max_tokens": 1}, trust_env=False, timeout=60
        )
        return set(picker.spread(body, 20)) == {endpoint(fleet, "alpha-2")}

    until("it is picked", goes_there)


def test_prefill_and_decode_are_told_apart_by_role(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """A new prompt goes to a server for decode, with the one for prefill in a header; a cached one needs none."""
    fleet = ghostfleet_fleet(objects(decode={"role": "Decode", "replicas": 2}, prefill={"role": "Prefill"}))
    scored = [{"pluginRef": "max-score-picker"}, {"pluginRef": "prefix-cache-scorer"}]
    plugins: list[dict[str, Any]] = [
        {"type": "approx-prefix-cache-producer", "parameters": {"blockSizeTokens": 16, "autoTune": False}},
        {"type": "prefix-cache-scorer"},
        {"type": "prefill-filter"},
        {"type": "decode-filter"},
        {"type": "max-score-picker"},
        {"type": "prefix-based-pd-decider", "parameters": {"nonCachedTokens": 16}},
        {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": "prefix-based-pd-decider"}}},
    ]
    picker = start(
        fleet,
        plugins,
        prefill=[{"pluginRef": "prefill-filter"}, *scored],
        decode=[{"pluginRef": "decode-filter"}, *scored],
    )
    body = {"model": "m", "prompt": "once upon a time there was a scheduler " * 20}
    first = picker.ask(body)
    assert first.endpoint in {endpoint(fleet, "decode-0"), endpoint(fleet, "decode-1")}
    assert first.headers["x-prefiller-host-port"] == endpoint(fleet, "prefill-0")
    until("it is known to be cached", lambda: "x-prefiller-host-port" not in picker.ask(body).headers)
