"""What the bench sees of servers: a watch in a thread, and the moments at which what it waits for came true."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from tests.apiserver.cluster import condition, path

from ghostfleet_operator.reconcile.api import SERVER


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts of one server."""

    ready: bool
    synced: bool
    hash: str | None
    """Hash of the document that its pods should run."""

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Seen:
        """The facts in a raw server."""
        raw = dict(obj)
        desired = ((raw.get("status") or {}).get("profile") or {}).get("desired") or {}
        ready, synced = (condition(raw, name).get("status") == "True" for name in ("Ready", "ProfileSynced"))
        return cls(ready, synced, desired.get("hash"))


class Servers:
    """The servers of one namespace, as a watch tells of them."""

    def __init__(self, client: httpx.Client, namespace: str) -> None:
        self._client = client
        self._place = path(SERVER, namespace)
        self._seen: dict[str, Seen] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[Servers]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()

    def wait(self, wanted: Callable[[Mapping[str, Seen]], bool], within: float) -> float | None:
        """When (`time.monotonic`) the servers were as wanted; None where they never were."""
        with self._changed:
            came = self._changed.wait_for(lambda: wanted(self._seen), within)
            return time.monotonic() if came else None

    def _watch(self) -> None:
        version = "0"
        while not self._stop.is_set():
            query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
            with contextlib.suppress(httpx.HTTPError), self._client.stream("GET", self._place, params=query) as lines:
                if lines.status_code != httpx.codes.OK:
                    time.sleep(0.2)  # the API server is not done with a new kind yet
                    continue
                for line in lines.iter_lines():
                    event = json.loads(line)
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        name = event["object"]["metadata"].get("name")
        with self._changed:
            if event["type"] == "DELETED":
                self._seen.pop(name, None)
            elif event["type"] != "BOOKMARK":
                self._seen[name] = Seen.of(event["object"])
            self._changed.notify_all()
