"""Watches that lose, delay, repeat or mix up what they tell: lives go on, and what does not change is not written.

What bounds the harm is the round in which everything is listed (`--resync-seconds`, 2 here, 300 by default).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.apiserver.faults.life import Life
from tests.apiserver.faults.operators import SupervisedOperator
from tests.apiserver.faults.streams import WAYS
from tests.apiserver.faults.test_calls import FLAGS, SOAK
from tests.apiserver.hollow import Hollow

pytestmark = pytest.mark.soak
LIVES = 5 if SOAK else 1
SAMPLE = ("silent", "gaps", "out_of_order")


@pytest.mark.parametrize("way", WAYS if SOAK else SAMPLE)
def test_a_life_behind_watches_that_are(hollow: Hollow, tmp_path: Path, way: str) -> None:
    """Every watch of the operator is like that from its start on, through several lives side by side."""
    namespace = f"stream-{way.replace('_', '-')}"
    hollow.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    operator = SupervisedOperator(hollow, tmp_path, namespace, *FLAGS)
    operator.proxy.stream = WAYS[way]
    with operator.running(), ThreadPoolExecutor(LIVES) as pool:
        list(pool.map(lambda number: Life(hollow.cluster, namespace, f"l{number}", within=60).live(), range(LIVES)))
    assert operator.starts == 1, "the same process went on"
