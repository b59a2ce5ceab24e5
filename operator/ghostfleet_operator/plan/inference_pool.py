"""The `InferencePool` over a server's pods, which gateways route to and endpoint pickers choose from; pure.

`inference.networking.k8s.io/v1`, as in the Gateway API Inference Extension, `api/v1/inferencepool_types.go` (v1.5.0).
"""

from __future__ import annotations

from ghostfleet_operator.plan.naming import SERVER_LABEL, Child, child
from ghostfleet_operator.plan.replicas import ServerPlan


def inference_pool(plan: ServerPlan) -> Child | None:
    """The pool that a server asks for, if it does. All that has a default is in it, so that nothing of it can drift."""
    wanted = plan.resolved.server.spec.networking.inference_pool
    if wanted is None:
        return None
    name, picker = wanted.name or plan.name, wanted.endpoint_picker_ref
    labels = dict(wanted.selector.match_labels) if wanted.selector else {SERVER_LABEL: plan.name}
    spec = {
        "selector": {"matchLabels": labels},
        "targetPorts": [{"number": port} for port in plan.resolved.config.ports],
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": picker.name or f"{name}-epp",
            "port": {"number": picker.port.number},
            "failureMode": picker.failure_mode.value,
        },
    }
    return child(plan, "inference.networking.k8s.io/v1", "InferencePool", name) | {"spec": spec}
