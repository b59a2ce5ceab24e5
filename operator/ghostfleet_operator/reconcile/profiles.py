"""The profiles that servers refer to, each read into a model once for all of its users."""

from __future__ import annotations

from typing import Final

from ghostfleet_operator.kinds.profile import ProfileResource, parse_profile
from ghostfleet_operator.kinds.server import ProfileKind, SimulatedModelServer
from ghostfleet_operator.reconcile.api import PROFILES, Object, kind_of, namespace_of
from ghostfleet_operator.reconcile.store import Place, Reader
from ghostfleet_operator.resolve import FindProfile, Reason, Unresolved
from ghostfleet_simulator.problems import InvalidInput

_MOST: Final = 256
"""Profiles that are kept as they were read."""


class Profiles:
    """Finds the profile of a server; `no_cluster_profiles` is why no ClusterLatencyProfile can be used, if so."""

    def __init__(self, no_cluster_profiles: str | None) -> None:
        self._no_cluster_profiles = no_cluster_profiles
        self._read: dict[Place, tuple[str, ProfileResource | InvalidInput]] = {}
        """Profiles by where they are, with the version that was read."""

    async def of(self, server: SimulatedModelServer, reader: Reader) -> FindProfile:
        """What `resolve` is to find; raises `Unresolved` where the kind is not in use."""
        reference = server.spec.profile_ref
        if reference is None:
            return lambda _kind, _name: None
        if self._no_cluster_profiles and reference.kind is ProfileKind.CLUSTER_LATENCY_PROFILE:
            raise Unresolved(Reason.NOT_ENABLED, self._no_cluster_profiles, "spec.profileRef.kind")
        kind = PROFILES[reference.kind.value]
        found = await reader.get(kind, server.metadata.namespace if kind.namespaced else "", reference.name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return lambda _kind, _name: None
        profile = self._parsed(found)
        return lambda _kind, _name: profile

    def _parsed(self, raw: Object) -> ProfileResource | InvalidInput:
        place, version = (kind_of(raw), namespace_of(raw), raw["metadata"]["name"]), raw["metadata"]["resourceVersion"]
        known = self._read.get(place)
        if known is None or known[0] != version:
            try:
                known = version, parse_profile(raw)
            except InvalidInput as error:
                known = version, error
            if len(self._read) >= _MOST:
                self._read.clear()
            self._read[place] = known
        return known[1]
