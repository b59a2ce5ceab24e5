"""Whether KV events go where schedulers listen: `KVEventsReady`."""

from __future__ import annotations

from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.status.conditions import Verdict, false, true, unknown
from ghostfleet_operator.status.observation import Observation


def events_verdict(seen: Observation, ready: tuple[Replica, ...]) -> Verdict | None:
    """`KVEventsReady` by what the Ready pods said; None where no KV events are wanted."""
    documents = seen.documents
    if documents is None or not documents.stable.config.kv_events.enabled:
        return None
    if not ready:
        return unknown("NoReadyPods", "no pod is Ready yet") if seen.wanted else true("NoReplicas", "there is no pod")
    if silent := [replica for replica in ready if replica.silent]:
        text = f"{len(ready) - len(silent)} of {len(ready)} Ready pods publish their KV events"
        return false("NotPublishing", f"{text}; {silent[0].name}: {silent[0].silent}")
    if unasked := [replica for replica in ready if replica.revision is None]:
        return unknown("NotAsked", f"{unasked[0].name}: {unasked[0].reason or 'not asked yet'}")
    return true("Publishing", "every Ready pod publishes its KV events")
