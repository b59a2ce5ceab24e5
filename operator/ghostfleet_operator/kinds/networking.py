"""How a server is reached: its Service, and the `InferencePool` that a gateway routes to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ghostfleet_operator.kinds.pod import Annotations, LabelValue, ObjectName
from ghostfleet_simulator.config import Settings


class ServiceType(StrEnum):
    """How a Service is reached."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class FailureMode(StrEnum):
    """What a gateway does when the endpoint picker does not answer: refuse the request, or pick any pod."""

    FAIL_CLOSE = "FailClose"
    FAIL_OPEN = "FailOpen"


class PickerPort(Settings):
    """A port of the endpoint picker's Service."""

    number: Annotated[int, Field(ge=1, le=65535)] = 9002
    """Its number."""


class EndpointPickerRef(Settings):
    """The Service of the endpoint picker, as an `InferencePool` refers to it."""

    name: ObjectName | None = None
    """Its Service. `<pool>-epp` by default, as the chart of the Gateway API Inference Extension names it."""

    port: PickerPort = PickerPort()
    """Its port."""

    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    """What a gateway does without it."""


class PoolSelector(Settings):
    """Which pods are in a pool."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=32)]
    """Labels of its pods."""


class InferencePool(Settings):
    """An `InferencePool` of the Gateway API Inference Extension (`inference.networking.k8s.io/v1`)."""

    name: ObjectName | None = None
    """Its name. By default that of the server."""

    endpoint_picker_ref: EndpointPickerRef = EndpointPickerRef()
    """Who is asked where a request goes."""

    selector: PoolSelector | None = None
    """Its pods. By default those of this server; for one over several servers, those with a label that they share."""


class Networking(Settings):
    """How the server is reached."""

    service_type: ServiceType = ServiceType.CLUSTER_IP
    """Type of the Service in front of all replicas."""

    service_annotations: Annotations = Field(default_factory=dict)
    """Annotations of that Service, for load balancers and meshes."""

    inference_pool: InferencePool | None = None
    """Makes an `InferencePool` over the pods. The operator has to be told (`--inference-pools`) to make them."""
