"""`LatencyProfile`: what servers cost in time, shared by the servers of a namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ghostfleet_operator.kinds.meta import Condition, Observed, Resource, parse
from ghostfleet_simulator.config import Profile


class LatencyProfileStatus(Observed):
    """What the operator found out about a profile."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """`Valid`: the profile can be used."""

    observed_generation: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """Generation of the spec that this status is about."""

    used_by: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Number of servers that refer to the profile."""

    hash: Annotated[str | None, Field(max_length=128)] = None
    """Hash of the profile; two profiles with the same numbers have the same."""


class LatencyProfile(Resource):
    """What a server costs in time.

    A change reaches every server that refers to the profile at once, without a restart.
    """

    api_version: Literal["ghostfleet.dev/v1alpha1"]
    kind: Literal["LatencyProfile"]
    spec: Profile
    """The times."""

    status: LatencyProfileStatus | None = None
    """Written by the operator."""


def parse_profile(raw: object) -> LatencyProfile:
    """A raw object as a profile, its status left out; raises `InvalidInput`."""
    return parse(LatencyProfile, raw)
