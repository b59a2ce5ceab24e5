"""Runs one replica for a supervisor and ends it when the supervisor is gone, however that ended.

    python -m ghostfleet_operator.cli.child serve ...

Standard input is a pipe whose other end only the supervisor holds. When it closes, the process asks itself to stop, as
SIGTERM does. This needs nothing of the platform, and no process lingers after a supervisor was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ghostfleet_operator.cli.main import main


def _stop_with_the_supervisor() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_the_supervisor, daemon=True, name="supervisor").start()
    sys.exit(main())
