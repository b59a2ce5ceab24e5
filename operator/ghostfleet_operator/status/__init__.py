"""From what was observed to conditions and status; pure, and right for kstatus at every moment.

`Ready` is True only while what is wanted is wholly what runs. While it is not, exactly one of `Reconciling` (work is
going on, or waits for something that will come) and `Stalled` (only a change by a person can help) is there.
"""

from ghostfleet_operator.status.observation import Observation, Obstacle, Workload
from ghostfleet_operator.status.profile import profile_status
from ghostfleet_operator.status.server import POOL_APPLIED, server_status

__all__ = ["POOL_APPLIED", "Observation", "Obstacle", "Workload", "profile_status", "server_status"]
