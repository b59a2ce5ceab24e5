"""The replicas of one server, brought to what its plan says: number, document, restart fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ghostfleet_operator.local.push import push
from ghostfleet_operator.local.replica import Replica, Surroundings
from ghostfleet_operator.plan.replicas import ServerPlan, plan
from ghostfleet_operator.resolve import Resolved


class Group:
    """One server of the fleet. Level-triggered: each pass goes from what is to what the last plan wants."""

    def __init__(self, resolved: Resolved, surroundings: Surroundings) -> None:
        self._here = surroundings
        self._replicas: dict[int, Replica] = {}
        self._leaving: dict[Replica, asyncio.Task[None]] = {}
        self._due = asyncio.Event()
        self._plan: ServerPlan = plan(resolved, None)
        self._wanted = True
        self._due.set()

    @property
    def plan(self) -> ServerPlan:
        """What is wanted."""
        return self._plan

    @property
    def wanted(self) -> bool:
        """False once the server was removed."""
        return self._wanted

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas that there are, by number."""
        return tuple(replica for _, replica in sorted(self._replicas.items()))

    @property
    def leaving(self) -> tuple[Replica, ...]:
        """Replicas that drain because they are not wanted any more."""
        return tuple(self._leaving)

    @property
    def settled(self) -> bool:
        """Whether every wanted replica takes requests and runs the document and restart fields of the plan."""
        return len(self._replicas) == self._plan.replicas and all(
            replica.plan is self._plan and replica.synced and replica.runs_restart_hash == self._plan.restart_hash
            for replica in self._replicas.values()
        )

    def want(self, resolved: Resolved) -> str | None:
        """Take `resolved` for what is wanted; says in words what changes, if anything does."""
        before, self._wanted = self._plan, True
        self._plan = plan(resolved, before.document)
        self._due.set()
        return ", ".join(_differences(before, self._plan)) or None

    def remove(self) -> None:
        """No replica is wanted any more."""
        self._wanted = False
        self._due.set()

    def look(self) -> None:
        """Go over the replicas again: one of them is not as it should be."""
        self._due.set()

    async def run(self) -> None:
        """Works until the server was removed and its replicas have ended."""
        while self._wanted or self._replicas or self._leaving:
            await self._due.wait()
            self._due.clear()
            await self._pass()

    async def stop(self) -> None:
        """Drains and ends all replicas, whatever is wanted."""
        self._wanted = False
        self._let_go(list(self._replicas))
        await asyncio.gather(*self._leaving.values())

    async def _pass(self) -> None:
        wanted = self._plan
        number = wanted.replicas if self._wanted else 0
        self._let_go([index for index in self._replicas if index >= number])
        for replica in self._replicas.values():
            replica.give(wanted)
        for index in range(number):
            if index not in self._replicas:
                self._replicas[index] = Replica(wanted, index, self._here)
                self._replicas[index].start()
        await self._push(wanted)
        self._restart_next()

    def _let_go(self, indices: list[int]) -> None:
        for index in indices:
            replica = self._replicas.pop(index)
            self._leaving[replica] = asyncio.create_task(self._end(replica), name=f"stop {replica.name}")
        if indices:
            self._here.changed()

    async def _end(self, replica: Replica) -> None:
        await replica.stop()
        del self._leaving[replica]
        self._due.set()
        self._here.changed()

    def _restart_next(self) -> None:
        """Restarts what does not serve anyway, and one of those that serve while all others do."""
        for replica in self.replicas:
            if replica.restarting or replica.runs_restart_hash in (None, self._plan.restart_hash):
                continue
            if not replica.ready or all(other.ready for other in self.replicas):
                self._here.say(f"{replica.name} restarts")
                replica.restart()

    async def _push(self, wanted: ServerPlan) -> None:
        late = [replica for replica in self.replicas if replica.ready and not replica.synced]
        if not late:
            return
        acks = await push([replica.target for replica in late], wanted.document, client=self._here.client)
        highest = 0
        for replica, ack in zip(late, acks, strict=True):
            if replica.ready:
                replica.ack = ack
            if ack.reason:
                self._here.say(f"{replica.name}: {ack.reason}")
            highest = max(highest, ack.revision or 0)
        if highest > wanted.revision and self._plan is wanted:
            # Somebody put a newer document to the replica itself; what the files say comes back above it.
            self._plan = plan(wanted.resolved, wanted.document, floor=highest)
            self._due.set()
        self._here.changed()


def _differences(old: ServerPlan, new: ServerPlan) -> Iterator[str]:
    if old.replicas != new.replicas:
        yield f"{old.replicas} -> {new.replicas} replicas"
    if old.document.hash != new.document.hash:
        yield f"revision {new.revision} is pushed"
    if old.restart_hash != new.restart_hash:
        yield "its replicas restart one after another"
