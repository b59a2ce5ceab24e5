"""The custom resources of `ghostfleet.dev/v1alpha1` as models, and the CRDs made from them."""

from __future__ import annotations

from ghostfleet_operator.kinds.meta import API_VERSION, GROUP, VERSION, Condition, ObjectMeta
from ghostfleet_operator.kinds.profile import ClusterLatencyProfile, LatencyProfile, ProfileResource, parse_profile
from ghostfleet_operator.kinds.server import SimulatedModelServer, parse_server
from ghostfleet_operator.kinds.server_status import parse_status

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "ClusterLatencyProfile",
    "Condition",
    "LatencyProfile",
    "ObjectMeta",
    "ProfileResource",
    "SimulatedModelServer",
    "parse_profile",
    "parse_server",
    "parse_status",
]
