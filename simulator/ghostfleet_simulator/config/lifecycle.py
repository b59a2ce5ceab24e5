"""How long a server takes to start and to wake up."""

from __future__ import annotations

from typing import Annotated

from ghostfleet_simulator.config.base import Flag, Settings
from ghostfleet_simulator.units import Duration


class Lifecycle(Settings):
    """How long a server takes to start and to wake up, in real time."""

    startup_duration: Annotated[Duration, Flag("startup-duration")] = Duration(0)
    """Time from the start of the process until it listens, as if a model were loaded; connections are refused."""

    ready_after: Annotated[Duration, Flag("ready-after")] = Duration(0)
    """Time for which a server that listens says that it is not ready."""

    wake_up_duration: Annotated[Duration, Flag("wake-up-duration")] = Duration(0)
    """Time that `POST /wake_up` takes after a sleep of level 1 or 2; `weights` and `kv_cache` take half of it each."""
