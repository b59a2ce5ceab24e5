"""Entry of `ghostfleet operator`."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback

from prometheus_client import disable_created_metrics

from ghostfleet_operator.kube.keys import KeyFile
from ghostfleet_operator.kube.options import OperatorOptions
from ghostfleet_operator.kube.process import OperatorProcess
from ghostfleet_operator.reconcile.api import KubeError
from ghostfleet_simulator import logs
from ghostfleet_simulator.config import LogLevel


def run(options: OperatorOptions) -> int:
    """Run the operator until SIGTERM or SIGINT; 0 when asked to stop, 1 when it cannot go on, 2 for a bad option."""
    try:
        keys = KeyFile(options.key_file)
    except OSError as error:
        return _complain(f"cannot read the key file {options.key_file}: {error.strerror}", 2)
    except ValueError as error:
        return _complain(f"the key file {error}", 2)
    # When a series began is told by none of the dashboards, and would double the scrape.
    disable_created_metrics()
    logs.set_up(options.log_level, options.log_format)
    # kopf tells of every handler it calls; what matters of that is in our own lines.
    logging.getLogger("kopf").setLevel(logging.DEBUG if options.log_level is LogLevel.DEBUG else logging.WARNING)
    if options.log_level is not LogLevel.DEBUG:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_for_people)
    try:
        return asyncio.run(_serve(options, keys))
    except KubeError as error:
        return _complain(str(error), 1)
    except OSError as error:
        return _complain(f"cannot listen on {options.health_host}:{options.health_port}: {error.strerror}", 1)


def _for_people(record: logging.LogRecord) -> bool:
    """Leave the traceback out of what kopf, or asyncio of its callbacks, says of a request that failed: the message has
    the error. What asyncio says of kopf's generators is left out whole: at the end it closes a stream and what is
    inside of it at once, and the one finds the other closed."""
    kopfs = record.name.startswith("kopf.")
    if record.name == "asyncio" and record.exc_info:
        frames = traceback.extract_tb(record.exc_info[2])
        kopfs = any("/kopf/" in frame.filename for frame in frames) or "/kopf/" in record.getMessage()
        if kopfs and "closing of asynchronous generator" in record.getMessage():
            return False
    if kopfs:
        record.exc_info = record.exc_text = None
    return True


async def _serve(options: OperatorOptions, keys: KeyFile) -> int:
    return await OperatorProcess(options, keys).run()


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"ghostfleet operator: {message}\n")
    return code
