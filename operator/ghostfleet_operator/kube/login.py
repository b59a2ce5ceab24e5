"""Credentials: of the pod the operator runs in, or of a kubeconfig; one way for our client and for kopf."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import kopf
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from ghostfleet_operator.reconcile.api import KubeError

_UNUSABLE: Final = (
    *(config.ConfigException, OSError, yaml.YAMLError),
    # Content of another shape than a kubeconfig's ends in whatever error it happens to cause over there.
    *(AttributeError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class Login:
    """Where credentials come from: `kubeconfig` or, where None, what kubectl would take: `$KUBECONFIG`, the pod's
    service account, `~/.kube/config`, in this order."""

    kubeconfig: str | None = None
    context: str | None = None

    async def configuration(self) -> Configuration:
        """Fresh credentials for a client of `kubernetes.aio`, and the way there; raises `KubeError` in plain words."""
        settings = await self._credentials()
        # aiohttp would look for the proxy before each request, in a thread, which costs as much as the request itself.
        settings.client_session_kwargs = {"trust_env": False}
        settings.proxy = settings.proxy or _proxy_to(settings.host)
        return settings

    async def _credentials(self) -> Configuration:
        settings = Configuration()
        path = self.kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
                return settings
            await config.load_kube_config(
                config_file=path, context=self.context, client_configuration=settings, persist_config=False
            )
        except _UNUSABLE as error:
            place = str(path or Path.home() / ".kube" / "config")
            text = " ".join(str(error).split()) if _exists(place) else "no such file"
            raise KubeError(f"no credentials for Kubernetes in {place}: {text}") from None
        return settings

    async def for_kopf(self) -> kopf.ConnectionInfo:
        """The same credentials as kopf takes them."""
        settings = await self.configuration()
        header = await settings.get_api_key_with_prefix("BearerToken")
        scheme, _, token = (header or "").strip().partition(" ")
        return kopf.ConnectionInfo(
            server=settings.host,
            ca_path=settings.ssl_ca_cert,
            insecure=not settings.verify_ssl,
            scheme=scheme.capitalize() or None,
            token=token or None,
            certificate_path=settings.cert_file,
            private_key_path=settings.key_file,
            proxy_url=settings.proxy,
        )


def _exists(paths: str) -> bool:
    """Whether there is any of the files, which `$KUBECONFIG` separates as `$PATH` does."""
    return any(Path(path).expanduser().exists() for path in paths.split(os.pathsep))


def _proxy_to(host: str) -> str | None:
    """The proxy that the environment names for the API server, if it names one (`HTTPS_PROXY`, `NO_PROXY`)."""
    url = urlsplit(host)
    if not url.hostname or urllib.request.proxy_bypass(url.hostname):
        return None
    return urllib.request.getproxies().get(url.scheme)
