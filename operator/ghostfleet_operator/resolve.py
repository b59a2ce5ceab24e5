"""The configuration that a server's replicas run, from the server and the profile it refers to; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from ghostfleet_operator.kinds.profile import ProfileResource
from ghostfleet_operator.kinds.server import ProfileKind, SimulatedModelServer
from ghostfleet_simulator.config import Behaviour, FixedConfig, Listen, Profile, ServerConfig
from ghostfleet_simulator.engine.timers import check_pace
from ghostfleet_simulator.metrics.fake import check_fake_metrics
from ghostfleet_simulator.problems import InvalidInput, explain

PORT: Final = 8000
ADMIN_PORT: Final = 9101
INLINE: Final = "Inline"

FindProfile = Callable[[ProfileKind, str], ProfileResource | InvalidInput | None]
"""Looks up a profile by kind and name, in the server's namespace where its kind has one: the profile, what is wrong
with it, or nothing."""


@dataclass(frozen=True, slots=True)
class ProfileSource:
    """Where a profile comes from: an object, or the server itself (`Inline`)."""

    kind: str
    name: str
    generation: int


class Reason(StrEnum):
    """Why a profile could not be resolved."""

    NOT_FOUND = "NotFound"
    INVALID = "Invalid"
    NOT_ENABLED = "NotEnabled"
    """It is of a kind that this operator does not use."""


class Unresolved(Exception):
    """A server whose profile cannot be had; what runs stays as it is.

    `field` is the path of what has to be changed in the server; empty where it is in the profile that it refers to.
    """

    def __init__(self, reason: Reason, message: str, field: str = "") -> None:
        self.reason = reason
        self.message = message
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A server with the configuration its replicas run, listening as a pod does (8000, admin 9101)."""

    server: SimulatedModelServer
    config: ServerConfig
    source: ProfileSource


def resolve(server: SimulatedModelServer, find_profile: FindProfile) -> Resolved:
    """The configuration of a server; raises `Unresolved`."""
    profile, source = _profile(server, find_profile)
    shared = {name: getattr(server.spec, name) for name in (*FixedConfig.model_fields, *Behaviour.model_fields)}
    try:
        config = ServerConfig(profile=profile, listen=Listen(port=PORT, admin_port=ADMIN_PORT), **shared)
    except ValidationError as error:  # ports of KV events that the pod has already, or that its ranks share
        found = explain(error, ServerConfig)[0]
        raise Unresolved(Reason.INVALID, found.message, f"spec.{found.path}") from None
    try:
        check_pace(config.clock, profile)
    except InvalidInput as error:
        text = f"the profile does not go with the server's clock: {error}"
        raise Unresolved(Reason.INVALID, text, "spec.clock.compression") from None
    try:
        check_fake_metrics(config, config.fake_metrics)
    except InvalidInput as error:
        raise Unresolved(Reason.INVALID, error.problems[0].message, f"spec.{error.problems[0].path}") from None
    return Resolved(server, config, source)


def _profile(server: SimulatedModelServer, find_profile: FindProfile) -> tuple[Profile, ProfileSource]:
    spec = server.spec
    if spec.profile is not None:
        return spec.profile, ProfileSource(INLINE, server.metadata.name, server.metadata.generation)
    if spec.profile_ref is None:
        raise Unresolved(Reason.INVALID, "set exactly one of profile and profileRef", "spec")
    kind, name = spec.profile_ref.kind, spec.profile_ref.name
    found = find_profile(kind, name)
    if found is None:
        where = f" in namespace {server.metadata.namespace!r}" if kind is ProfileKind.LATENCY_PROFILE else ""
        raise Unresolved(Reason.NOT_FOUND, f"there is no {kind} {name!r}{where}", "spec.profileRef.name")
    if isinstance(found, InvalidInput):
        raise Unresolved(Reason.INVALID, f"{kind} {name!r} is invalid: {found}")
    return found.spec, ProfileSource(kind.value, name, found.metadata.generation)
