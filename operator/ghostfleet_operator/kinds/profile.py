"""`LatencyProfile` and `ClusterLatencyProfile`: what servers cost in time, for those of a namespace or of all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ghostfleet_operator.kinds.meta import ClusterObjectMeta, Condition, Observed, Resource, parse
from ghostfleet_simulator.config import Profile


class LatencyProfileStatus(Observed):
    """What the operator found out about a profile."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """`Ready` and `Valid`: the profile can be used. `Stalled` is there only while it cannot."""

    observed_generation: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """Generation of the spec that this status is about."""

    used_by: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Number of servers that refer to the profile."""

    hash: Annotated[str | None, Field(max_length=128)] = None
    """Hash of the profile; two profiles with the same numbers have the same."""


class ProfileResource(Resource):
    """What both kinds of profiles are."""

    spec: Profile
    """The times."""

    status: LatencyProfileStatus | None = None
    """Written by the operator."""


class LatencyProfile(ProfileResource):
    """What a server costs in time.

    A change reaches every server that refers to the profile at once, without a restart.
    """

    api_version: Literal["ghostfleet.dev/v1alpha1"]
    kind: Literal["LatencyProfile"]


class ClusterLatencyProfile(ProfileResource):
    """What a server costs in time, for servers of all namespaces.

    A change reaches every server that refers to the profile at once, without a restart. An operator uses profiles of
    the cluster only where it is told to.
    """

    api_version: Literal["ghostfleet.dev/v1alpha1"]
    kind: Literal["ClusterLatencyProfile"]
    metadata: ClusterObjectMeta


def parse_profile(raw: object) -> ProfileResource:
    """A raw object as a profile of the kind it says it is, its status left out; raises `InvalidInput`."""
    of_cluster = isinstance(raw, dict) and raw.get("kind") == "ClusterLatencyProfile"
    return parse(ClusterLatencyProfile if of_cluster else LatencyProfile, raw)
