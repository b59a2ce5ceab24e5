"""All servers of a fleet: what files say becomes processes, and what the processes are is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ghostfleet_operator.local.group import Group
from ghostfleet_operator.local.objects import Key
from ghostfleet_operator.local.replica import Replica, Surroundings
from ghostfleet_operator.local.state import write_atomically
from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.plan.ports import endpoint_name
from ghostfleet_operator.resolve import Resolved
from ghostfleet_simulator import __version__

_PUBLISH_SECONDS: Final = 0.02
"""Changes within this time are published together."""
_PUBLISH_SHARE: Final = 0.1
"""Of the time that passes, at most this much is spent on publishing."""
_RETRY_SECONDS: Final = 5.0


class Fleet:
    """The servers of one supervisor; `change` is set by whatever is not as it was."""

    def __init__(self, surroundings: Surroundings, change: asyncio.Event) -> None:
        self._here = surroundings
        self._groups: dict[Key, Group] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._change = change
        self.first_settled = asyncio.Event()
        """Set when all is as wanted for the first time."""
        self._started = datetime.now(UTC)
        self._endpoints = ""
        self.facts: dict[str, Any] = {}
        """What the supervisor adds to what is published."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas, by server and number."""
        return tuple(replica for group in self.groups for replica in group.replicas)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The servers that are wanted, by name."""
        return tuple(group for _, group in sorted(self._groups.items()) if group.wanted)

    @property
    def settled(self) -> bool:
        """Whether all is as wanted."""
        return all(group.settled for group in self.groups)

    def want(self, resolved: Iterable[Resolved]) -> list[str]:
        """Takes over what is wanted from now on; what that changes, one line per server."""
        wanted = {Key("SimulatedModelServer", r.server.metadata.namespace, r.server.metadata.name): r for r in resolved}
        lines = []
        for key, one in sorted(wanted.items()):
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(one, self._here)
                self._tasks[key] = asyncio.create_task(self._attend(key, group), name=f"server {key.name}")
                count = group.plan.replicas
                lines.append(f"{key}: {count} replica{'' if count == 1 else 's'}")
            else:
                was_wanted = group.wanted
                difference = group.want(one)
                if difference or not was_wanted:
                    lines.append(f"{key}: {difference or 'is wanted again'}")
        for key, group in sorted(self._groups.items()):
            if key not in wanted and group.wanted:
                group.remove()
                lines.append(f"{key}: removed")
        self._change.set()
        return lines

    async def watch_changes(self) -> None:
        """Publishes each change, and has servers look after their replicas; runs until cancelled."""
        loop = asyncio.get_running_loop()
        pause = _PUBLISH_SECONDS
        while True:
            await self._change.wait()
            await asyncio.sleep(pause)
            self._change.clear()
            began = loop.time()
            self.publish()
            pause = max(_PUBLISH_SECONDS, (loop.time() - began) / _PUBLISH_SHARE)
            for group in self.groups:
                if not group.settled:
                    group.look()
            if self.settled:
                self.first_settled.set()

    async def stop(self) -> None:
        """Drains and ends everything."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*(group.stop() for group in self._groups.values()))

    def kill(self) -> None:
        """Ends everything at once."""
        for group in self._groups.values():
            for replica in (*group.replicas, *group.leaving):
                replica.give_up()
        self._here.processes.kill()

    def publish(self) -> None:
        """Writes the endpoints, and then `fleet.json`: a server that is ready by this one is among those."""
        endpoints = endpoints_text(self.groups)
        if endpoints != self._endpoints:
            write_atomically(self._here.folder.endpoints_file, endpoints)
            self._endpoints = endpoints
        self._here.folder.write_fleet(self.described())

    def described(self) -> dict[str, Any]:
        """What `ghostfleet status` reads."""
        return {
            "version": __version__,
            "startedAt": self._started.isoformat(timespec="seconds"),
            "endpointsFile": str(self._here.folder.endpoints_file),
            **self.facts,
            "servers": [_server(group) for _, group in sorted(self._groups.items())],
        }

    async def _attend(self, key: Key, group: Group) -> None:
        while True:
            try:
                await group.run()
            except Exception as error:  # noqa: BLE001 - one server must not end the others
                self._here.say(f"{key}: {error or type(error).__name__}; trying again in {_RETRY_SECONDS:g} s")
                await asyncio.sleep(_RETRY_SECONDS)
                group.look()
            else:
                break
        del self._groups[key], self._tasks[key]
        self._change.set()


def _server(group: Group) -> dict[str, Any]:
    plan = group.plan
    return {
        "namespace": plan.namespace,
        "name": plan.name,
        "model": plan.resolved.config.model.aliases[0],
        "wantedReplicas": plan.replicas if group.wanted else 0,
        "settled": group.settled,
        "revision": plan.revision,
        "hash": plan.document.hash,
        "replicas": [_replica(replica) for replica in (*group.replicas, *group.leaving)],
    }


def _replica(replica: Replica) -> dict[str, Any]:
    return {
        "name": replica.name,
        "pid": replica.pid,
        "url": replica.address.url,
        "ports": [port for _, port in replica.ports],
        "adminUrl": replica.address.admin_url,
        "ready": replica.ready,
        "unready": replica.unready,
        "stopping": replica.stopping,
        "restarts": replica.restarts,
        "starts": replica.starts,
        "synced": replica.synced,
        "log": str(replica.log_file),
    }


def endpoints_text(groups: Iterable[Group]) -> str:
    """The replicas that should get requests as the EPP's file discovery reads them: ports are strings; JSON is YAML."""
    entries: list[Mapping[str, Any]] = [
        {
            "name": endpoint_name(replica.name, rank),
            "namespace": replica.namespace,
            "address": replica.address.host,
            "port": str(port),
            "labels": {SERVER_LABEL: group.plan.name} | group.plan.resolved.server.spec.pod_labels,
        }
        for group in groups
        for replica in group.replicas
        if replica.ready and not replica.unready
        for rank, port in replica.ports
    ]
    return '{"endpoints": [' + ",".join(f"\n{json.dumps(entry, ensure_ascii=False)}" for entry in entries) + "]}\n"
