"""What a lost ConfigMap held, from the pods that still run it."""

from __future__ import annotations

from collections import Counter

from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.reconcile.passes import Pass


async def rescued(run: Pass) -> Truth | None:
    """What pods ran before a document that the status knows to be unproven, or taken back; else None.

    Without it, a ConfigMap that is deleted in the middle of a wave would be rebuilt with the new document for all.
    """
    profile = run.previous.profile
    unproven = (profile.rollout or profile.rejected) if profile else None
    if unproven is None:
        return None
    said = {replica.name: replica.hash for replica in run.replicas if replica.reachable}
    proven = Counter(digest for digest in said.values() if digest and digest != unproven.hash)
    for digest, _ in proven.most_common(1):
        for pod in [pod for pod in run.pods if said.get(pod.name) == digest][:3]:
            document = await run.memory.pods.fetch(pod)
            if document and document.hash == digest and document.revision is not None:
                return Truth(document)
    return None
