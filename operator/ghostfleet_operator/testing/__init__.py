"""A fleet in a test of one's own: start it, send requests through a scheduler, and ask which server took them.

With pytest the fixture `ghostfleet_fleet` (`testing.plugin`) does the starting and the stopping; elsewhere `Fleet` is a
context manager.
"""

from ghostfleet_operator.testing.fleet import Fleet, FleetError, Replica, Served

__all__ = ["Fleet", "FleetError", "Replica", "Served"]
