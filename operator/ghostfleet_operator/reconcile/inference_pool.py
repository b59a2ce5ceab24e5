"""The `InferencePool` that a server asks for: a child of a kind that a cluster may not have.

What is in its way keeps nothing else of the server from being made.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from ghostfleet_operator.plan.inference_pool import inference_pool
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.reconcile.api import INFERENCE_POOL, Invalid, KubeError
from ghostfleet_operator.reconcile.children import Children, Correction
from ghostfleet_operator.reconcile.passes import Pass
from ghostfleet_operator.status import Obstacle

NOT_ENABLED: Final = "NotEnabled"
NOT_INSTALLED: Final = "NotInstalled"


class InferencePools:
    """Makes, mends and deletes them, unless `not_enabled` says why this operator does not."""

    def __init__(self, children: Children, not_enabled: str | None) -> None:
        self._children = children
        self._not_enabled = not_enabled

    async def ensure(self, run: Pass, plan: ServerPlan) -> list[Correction]:
        """Bring the pool to what is wanted; notes in the pass what is in the way. Raises `KubeError`."""
        pool = inference_pool(plan)
        wanted = [pool] if pool else []
        if self._not_enabled:
            run.pool_obstacle = Obstacle(NOT_ENABLED, self._not_enabled, permanent=True) if wanted else None
            return []
        await self._children.prune((INFERENCE_POOL,), wanted, run.reader, plan)
        try:
            if foreign := await self._children.foreign(wanted, run.reader, run.uid):
                run.pool_obstacle = foreign.obstacle
                return []
            return await self._children.ensure(wanted, run.reader, run.memory.children, blind=False)
        except Invalid as error:
            run.pool_obstacle, run.error = Obstacle("WriteFailed", str(error), permanent=False), error
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            text = f"the API server does not know {INFERENCE_POOL.name} of {INFERENCE_POOL.api_version}"
            run.pool_obstacle = Obstacle(NOT_INSTALLED, f"{text}; install its CRD", permanent=False)
        return []
