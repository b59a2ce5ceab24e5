"""Manifests as people have them for llm-d-inference-sim, made from parts."""

from __future__ import annotations

from typing import Any

IMAGE = "ghcr.io/llm-d/llm-d-inference-sim:v0.10.2"
POD_FIELDS = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_IP": "status.podIP"}
RENDERER = {
    "name": "vllm-render",
    "image": "vllm/vllm-openai-cpu:v0.21.0",
    "restartPolicy": "Always",
    "command": ["vllm"],
    "args": ["launch", "render", "org/model", "--port=8082"],
}


def simulator(*args: str, image: str = IMAGE, **fields: Any) -> dict[str, Any]:
    """The simulator's container."""
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in POD_FIELDS.items()]
    return {"name": "vllm-sim", "image": image, "args": list(args), "env": env, **fields}


def workload(
    *containers: dict[str, Any],
    name: str = "sim",
    kind: str = "Deployment",
    replicas: int | None = 1,
    labels: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    **pod: Any,
) -> dict[str, Any]:
    """A workload of such containers."""
    labels = {"app": name} if labels is None else labels
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": list(containers), **pod}},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, **(metadata or {})}, "spec": spec}


def beside(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """Another object."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
