"""A scraper that asks far more often than any Prometheus server does."""

from __future__ import annotations

import http.client
import time
from typing import Final

from bench.client import BenchError, Endpoint

PER_S: Final = 60


def scrape(endpoint: Endpoint, seconds: float) -> None:
    """Ask for the metrics `PER_S` times a second over one connection.

    Raises:
        BenchError: the answer is not 200, or none came in 10 seconds.
    """
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=10)
    began = time.monotonic()
    try:
        for number in range(round(seconds * PER_S)):
            time.sleep(max(0.0, began + number / PER_S - time.monotonic()))
            connection.request("GET", f"{endpoint.prefix}/metrics")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise BenchError(f"/metrics answered {response.status}")
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"/metrics did not answer: {error!r}") from error
    finally:
        connection.close()
