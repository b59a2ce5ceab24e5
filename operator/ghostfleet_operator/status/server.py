"""The status of a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ghostfleet_operator.kinds.meta import ConditionStatus
from ghostfleet_operator.kinds.server_status import MOST_ENDPOINTS, Endpoint, KVEventsEndpoint, ServerStatus
from ghostfleet_operator.plan.naming import selector
from ghostfleet_operator.plan.observed import Replica, serving
from ghostfleet_operator.resolve import ADMIN_PORT, INLINE, PORT, Reason
from ghostfleet_operator.status.conditions import Verdict, conditions, false, true, unknown
from ghostfleet_operator.status.delivery import delivery_of, profile_part, synced_verdict
from ghostfleet_operator.status.events import events_verdict
from ghostfleet_operator.status.observation import Observation
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.kv_events.endpoints import Place

POOL_APPLIED: Final = "InferencePoolApplied"


def server_status(seen: Observation) -> dict[str, Any]:
    """The status of a server, as JSON; the same observation on top of its own result gives the same again."""
    delivery = delivery_of(seen)
    ready = len(delivery.ready)
    synced = synced_verdict(seen, delivery)
    parts = {"ProfileResolved": _resolved(seen), "ProfileSynced": synced, "WorkloadAvailable": _available(seen)}
    if pool := _pool(seen):
        parts[POOL_APPLIED] = pool
    if events := events_verdict(seen, delivery.ready):
        parts["KVEventsReady"] = events
    overall = _ready(seen, parts, ready)
    verdicts = {"Ready": overall, **parts}
    if overall.status is not ConditionStatus.TRUE:
        verdicts["Stalled" if _stalled(seen, overall) else "Reconciling"] = true(overall.reason, overall.message)
    endpoints = list(_endpoints(seen))
    workload = seen.workload
    status = ServerStatus(
        conditions=conditions(verdicts, seen.previous.conditions, seen.generation, seen.now),
        observed_generation=seen.generation,
        replicas=workload.replicas if workload else 0,
        ready_replicas=workload.ready if workload else 0,
        updated_replicas=workload.updated if workload else 0,
        selector=selector(seen.name),
        profile=profile_part(seen, delivery, synced),
        endpoints=tuple(endpoints[:MOST_ENDPOINTS]),
        endpoint_count=len(endpoints),
        url=f"http://{seen.name}.{seen.namespace}.svc:{PORT}",
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _endpoints(seen: Observation) -> Iterator[Endpoint]:
    """The ranks of all pods that take requests: each on a port of its own, or all behind one."""
    config = seen.plan.resolved.config if seen.plan else None
    for replica, address in serving(seen.replicas):
        if replica.has_ranks:
            places = [(port - PORT, port) for port in replica.ports]
        else:
            places = [(rank, PORT) for rank in (config.ranks if config else (0,))]
        for rank, port in places:
            yield Endpoint(
                address=address,
                port=port,
                admin_port=ADMIN_PORT,
                pod=replica.name,
                rank=rank,
                kv_events=_events(seen, config, replica, address, rank, port) if config else None,
            )


def _events(
    seen: Observation, config: ServerConfig, replica: Replica, address: str, rank: int, port: int
) -> KVEventsEndpoint | None:
    if not config.kv_events.enabled:
        return None
    pod = {"POD_IP": address, "POD_NAME": replica.name, "POD_NAMESPACE": seen.namespace}
    place = Place.of(config.on_port(port), rank, pod)
    return KVEventsEndpoint(
        endpoint=place.reachable(place.endpoint, address),
        replay_endpoint=place.replay_endpoint and place.reachable(place.replay_endpoint, address),
        topic=place.topic,
    )


def _resolved(seen: Observation) -> Verdict:
    if seen.unresolved:
        return false(seen.unresolved.reason.value, seen.unresolved.message)
    if seen.plan:
        source = seen.plan.resolved.source
        text = "the server's own profile" if source.kind == INLINE else f"{source.kind} {source.name!r}"
        return true("Resolved", text)
    if seen.obstacle:
        return unknown(seen.obstacle.reason, seen.obstacle.message)
    return unknown("Reconciling", "not looked at yet")


def _available(seen: Observation) -> Verdict:
    workload = seen.workload
    if workload is None:
        return unknown("NotObserved", "the Deployment has not been seen yet")
    return Verdict(workload.available, workload.reason, workload.message)


def _pool(seen: Observation) -> Verdict | None:
    """`InferencePoolApplied`, where a pool is wanted; while that is not known, what it was."""
    if seen.plan is None:
        before = seen.previous.condition(POOL_APPLIED)
        return Verdict(before.status, before.reason, before.message) if before else None
    wanted = seen.plan.resolved.server.spec.networking.inference_pool
    if wanted is None:
        return None
    if seen.pool_obstacle:
        return false(seen.pool_obstacle.reason, seen.pool_obstacle.message)
    if seen.obstacle:
        return unknown(seen.obstacle.reason, seen.obstacle.message)
    return true("Applied", f"InferencePool {wanted.name or seen.name!r}")


def _ready(seen: Observation, parts: Mapping[str, Verdict], ready: int) -> Verdict:
    in_the_way = next(_not_ready(seen, parts, ready), None)
    if in_the_way or seen.plan is None:
        return in_the_way or unknown("Reconciling", "the server is being set up")
    if not seen.wanted:
        suspended = seen.plan.resolved.server.spec.suspend
        return true(*(("Suspended", "suspended") if suspended else ("ScaledToZero", "no replicas are wanted")))
    run = "replica runs" if seen.wanted == 1 else "replicas run"
    return true("Ready", f"{seen.wanted} {run} revision {seen.plan.revision}")


def _not_ready(seen: Observation, parts: Mapping[str, Verdict], ready: int) -> Iterator[Verdict]:
    """What is in the way of `Ready`, in the order in which things have to come about."""
    workload, wanted = seen.workload, seen.wanted
    if seen.obstacle:
        yield false(seen.obstacle.reason, seen.obstacle.message)
    if seen.unresolved:
        yield false(f"Profile{seen.unresolved.reason.value}", seen.unresolved.message)
    available, synced = parts["WorkloadAvailable"], parts["ProfileSynced"]
    if _is_rolled_back(seen):
        yield Verdict(synced.status, f"Profile{synced.reason}", synced.message)
    if seen.plan is None or workload is None:
        yield unknown("Reconciling", "the server is being set up")
        return
    if not workload.observed or workload.wanted != wanted:
        yield false("RollingOut", "the Deployment has not taken over the newest spec yet")
    if workload.updated < wanted or workload.replicas > workload.updated:
        text = f"{workload.updated} of {wanted} replicas have the newest pod template, {workload.replicas} pods exist"
        yield false("RollingOut", workload.trouble or text)
    if min(workload.ready, ready) < wanted:
        text = f"{min(workload.ready, ready)} of {wanted} replicas are Ready"
        why = "; ".join(filter(None, (_troubles(seen.replicas), workload.trouble)))
        yield false("PodsNotReady", f"{text}: {why}" if why else text)
    if available.status is not ConditionStatus.TRUE:
        yield available
    if synced.status is not ConditionStatus.TRUE:
        yield Verdict(synced.status, f"Profile{synced.reason}", synced.message)
    if (pool := parts.get(POOL_APPLIED)) and pool.status is not ConditionStatus.TRUE:
        yield Verdict(pool.status, f"InferencePool{pool.reason}", pool.message)


def _troubles(replicas: tuple[Replica, ...]) -> str:
    """What keeps pods from being Ready, by reason, with the first pod of each."""
    found: dict[str, list[Replica]] = {}
    for replica in sorted(replicas, key=lambda each: each.name):
        if replica.trouble and not replica.ready:
            found.setdefault(replica.trouble[0], []).append(replica)
    parts = []
    for word, pods in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        text = pods[0].trouble[1] if pods[0].trouble else ""
        parts.append(f"{len(pods)} {word} ({pods[0].name}{f': {text[:300]}' if text else ''})")
    return ", ".join(parts)


def _is_rolled_back(seen: Observation) -> bool:
    return seen.plan is not None and seen.documents is not None and seen.documents.rejected is not None


def _stalled(seen: Observation, overall: Verdict) -> bool:
    if seen.obstacle:
        return seen.obstacle.permanent
    if seen.unresolved:
        return seen.unresolved.reason is not Reason.NOT_FOUND
    if seen.pool_obstacle and overall.reason == f"InferencePool{seen.pool_obstacle.reason}":
        return seen.pool_obstacle.permanent
    return _is_rolled_back(seen)
