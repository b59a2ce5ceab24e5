"""Which of several operators works: the holder of a Lease, by the rules of client-go's leader election.

Times are measured on the local monotonic clock only, so clocks that differ do no harm: a Lease is held for as long as
its record was seen to change within its duration. Two things are stricter than in client-go (tools/leaderelection of
Kubernetes 1.34): a lease that was not renewed in time is never renewed afterwards, and what may be written is bounded
from the moment at which the last renewal was *asked* for, so that whoever takes the Lease does it after the last write.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from ghostfleet_operator.reconcile.api import LEASE, Conflict, Kind, KubeError, Object

_JITTER: Final = 1.2
_RELEASED_SECONDS: Final = 1
"""Duration that a released Lease says; only its empty holder counts."""

log = logging.getLogger("ghostfleet.operator")


class Leases(Protocol):
    """Reads and writes a Lease; every call raises `KubeError`."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None."""

    async def create(self, obj: Object) -> Object:
        """The new object; raises `Conflict` where there is one."""

    async def replace(self, obj: Object) -> Object:
        """The object over the version in it; raises `Conflict` where it changed."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Times of an election, in seconds."""

    duration: int
    """How long others leave a Lease alone that is not renewed."""
    renew_deadline: float
    """How long its holder goes on writing without having renewed it."""
    retry_period: float
    """Between two tries to get or to renew it."""

    def trouble(self) -> str | None:
        """Why two operators with these times could write at once, or a holder could lose its Lease by one lost try."""
        if self.duration <= self.renew_deadline:
            return f"the lease duration ({self.duration} s) must be longer than the renew deadline"
        if self.renew_deadline <= self.retry_period * _JITTER:
            return f"the renew deadline ({self.renew_deadline:g} s) must be longer than {_JITTER} retry periods"
        return None


class Elector:
    """Gets, keeps and gives back one Lease for `identity`."""

    def __init__(
        self,
        leases: Leases,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._leases = leases
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._now = now
        self._rng = rng
        self._sleep = sleep
        self._seen: Object | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self.trouble: str | None = "the lease was not read yet"
        """Why the Lease could not be read or written at the last try; None where it could."""

    def __str__(self) -> str:
        return f"lease {self._namespace}/{self._name}"

    @property
    def leading(self) -> bool:
        """Whether a write may begin now."""
        return self.write_seconds() > 0

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen; empty for nobody."""
        return str(_spec(self._seen).get("holderIdentity") or "")

    def write_seconds(self) -> float:
        """Seconds within which a write that begins now must have ended; 0 where none may begin."""
        if self._renewed_at is None:
            return 0.0
        age = self._clock() - self._renewed_at
        return self._times.duration - age if age < self._times.renew_deadline else 0.0

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        holder = None
        while not await self._attempt():
            if self.trouble is None and self.holder != holder:
                holder = self.holder
                log.info("%s is held by %s; standing by", self, holder)
            await self._sleep(self._times.retry_period * self._rng.uniform(1, _JITTER))
        log.info("%s is ours as %s", self, self._identity)

    async def hold(self) -> str:
        """Renew the Lease until it is lost; why."""
        while True:
            await self._sleep(self._times.retry_period)
            if not self.leading:
                return f"{self} was not renewed within {self._times.renew_deadline:g} s: {self.trouble or 'too busy'}"
            if not await self._attempt() and self.trouble is None and self.holder != self._identity:
                return f"{self} was taken by {self.holder or 'nobody'}"

    async def release(self) -> None:
        """Stop writing and, where the Lease is ours, let the next one have it at once."""
        lease, held = self._seen, self.leading and self.holder == self._identity
        self._renewed_at = None
        if not held or lease is None:
            return
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": _RELEASED_SECONDS}
        spec["acquireTime"] = spec["renewTime"] = self._time()
        try:
            async with asyncio.timeout(self._times.retry_period):
                await self._leases.replace({**lease, "spec": spec})
        except (KubeError, TimeoutError) as error:
            log.warning("%s could not be released: %s", self, str(error) or "no answer in time")
        else:
            log.info("%s is released", self)

    async def _attempt(self) -> bool:
        """Try once to get or renew the Lease; whether it is ours."""
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self._times.renew_deadline / 2):
                ours = await self._try()
        except (KubeError, TimeoutError) as error:
            text = str(error) or "no answer in time"
            if text != self.trouble:
                log.warning("%s: %s", self, text)
            self.trouble = text
            return False
        self.trouble = None
        if ours:
            self._renewed_at = asked_at
        return ours

    async def _try(self) -> bool:
        if self._seen and self.leading:
            try:
                return await self._write(self._seen)
            except Conflict:
                pass  # a try of ours whose answer was lost, or somebody else; the Lease itself tells
        found = await self._leases.get(LEASE, self._namespace, self._name)
        if found is None:
            return await self._make()
        if self._seen is None or _spec(found) != _spec(self._seen):
            self._seen_at = self._clock()
        self._seen = found
        if self.holder not in ("", self._identity) and self._clock() < self._seen_at + _duration(found):
            return False
        try:
            return await self._write(found)
        except Conflict:
            return False  # somebody was faster; the next look tells who

    async def _make(self) -> bool:
        meta = {"namespace": self._namespace, "name": self._name}
        lease = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": meta, "spec": self._record({})}
        try:
            self._seen, self._seen_at = await self._leases.create(lease), self._clock()
        except Conflict:
            return False
        return True

    async def _write(self, lease: Object) -> bool:
        self._seen = await self._leases.replace({**lease, "spec": self._record(_spec(lease))})
        self._seen_at = self._clock()
        return True

    def _record(self, last: dict[str, Any]) -> dict[str, Any]:
        now, ours = self._time(), last.get("holderIdentity") == self._identity
        transitions = int(last.get("leaseTransitions") or 0)
        return {
            **last,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.duration,
            "acquireTime": last.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if ours or not last else transitions + 1,
        }

    def _time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _spec(lease: Object | None) -> dict[str, Any]:
    return dict((lease or {}).get("spec") or {})


def _duration(lease: Object) -> int:
    return int(_spec(lease).get("leaseDurationSeconds") or 0)
