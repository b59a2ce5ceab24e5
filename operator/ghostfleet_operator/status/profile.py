"""The status of a profile: it can be used, or a person must change it; there is nothing that it waits for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ghostfleet_operator.kinds.profile import LatencyProfileStatus, ProfileResource
from ghostfleet_operator.status.conditions import conditions, false, true
from ghostfleet_simulator.config import LiveConfig
from ghostfleet_simulator.document import live_hash
from ghostfleet_simulator.problems import InvalidInput


def profile_status(
    found: ProfileResource | InvalidInput,
    *,
    generation: int,
    used_by: int,
    previous: LatencyProfileStatus,
    now: datetime,
) -> dict[str, Any]:
    """The status of a profile, as JSON, from what parsing it gave and the number of servers that refer to it."""
    if isinstance(found, InvalidInput):
        digest, verdict = None, false("Invalid", str(found))
    else:
        digest = live_hash(LiveConfig(profile=found.spec))
        verdict = true("Valid", "the profile can be used")
    verdicts = {"Ready": verdict, "Valid": verdict}
    if digest is None:
        verdicts["Stalled"] = true(verdict.reason, verdict.message)
    status = LatencyProfileStatus(
        conditions=conditions(verdicts, previous.conditions, generation, now),
        observed_generation=generation,
        used_by=used_by,
        hash=digest,
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
