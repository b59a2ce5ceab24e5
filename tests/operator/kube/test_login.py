"""Credentials, and the way to the API server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.client import ApiClient

from ghostfleet_operator.kube.login import Login

PROXY = "http://proxy.example:3128"


def kubeconfig(folder: Path, **cluster: str) -> str:
    place = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "clusters": [{"name": "lab", "cluster": {"server": "https://api.example:6443", **cluster}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    place.write_text(yaml.safe_dump(config))
    return str(place)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "cluster", "wanted"),
    [
        ({}, {}, None),
        ({"HTTPS_PROXY": PROXY}, {}, PROXY),
        ({"HTTP_PROXY": PROXY}, {}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "api.example"}, {}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example"}, {}, PROXY),
        ({"HTTPS_PROXY": "http://other.example"}, {"proxy-url": PROXY}, PROXY),
    ],
)
async def test_the_way_is_that_of_the_kubeconfig_or_else_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], cluster: dict[str, str], wanted: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    login = Login(kubeconfig(tmp_path, **cluster))
    assert (await login.configuration()).proxy == wanted
    assert (await login.for_kopf()).proxy_url == wanted


async def test_no_request_looks_for_a_proxy_again(tmp_path: Path) -> None:
    """aiohttp would do so in a thread, each time."""
    client = ApiClient(await Login(kubeconfig(tmp_path)).configuration())
    try:
        assert client.rest_client._create_pool_manager().trust_env is False
    finally:
        await client.close()
