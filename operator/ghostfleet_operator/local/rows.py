"""One row per replica, as the live table and `ghostfleet status` show them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from ghostfleet_operator.rollout import CONCURRENCY, TOTAL_SECONDS


@dataclass(frozen=True, slots=True)
class RankRow:
    """One data-parallel rank of a replica now."""

    rank: int
    url: str
    """Its own, or that of all of them."""
    running: int
    waiting: int
    kv_usage: float
    kv_events: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One replica now. Numbers are None while it does not answer."""

    server: str
    replica: str
    url: str
    ready: bool
    running: int | None
    waiting: int | None
    kv_usage: float | None
    """Share of the KV cache in use, 0 to 1."""
    revision: int | None
    synced: bool
    restarts: int
    note: str
    kv_events: str | None = None
    """Where it publishes its KV events, if it does; rank 0 where there are several."""
    ranks: tuple[RankRow, ...] = ()
    """Its ranks, where there are several; the numbers above are of all of them."""

    def to_json(self) -> dict[str, Any]:
        """As `ghostfleet status -o json` prints it."""
        plain = asdict(self)
        for one in (plain, *plain["ranks"]):
            one["kvUsage"], one["kvEvents"] = one.pop("kv_usage"), one.pop("kv_events")
        return plain


async def rows(fleet: Mapping[str, Any], token: str, client: httpx.AsyncClient) -> list[Row]:
    """The replicas of a published fleet, each asked for its state at this moment."""
    replicas = [(server, replica) for server in fleet["servers"] for replica in server["replicas"]]
    turns = asyncio.Semaphore(CONCURRENCY)
    states = await asyncio.gather(*(_state(replica, token, client, turns) for _, replica in replicas))
    return [_row(server, replica, state) for (server, replica), state in zip(replicas, states, strict=True)]


async def _state(
    replica: Mapping[str, Any], token: str, client: httpx.AsyncClient, turns: asyncio.Semaphore
) -> Mapping[str, Any]:
    if not replica["ready"]:
        return {}
    try:
        async with turns:
            answer = await client.get(
                f"{replica['adminUrl']}/admin/state",
                headers={"authorization": f"Bearer {token}"},
                timeout=TOTAL_SECONDS,
            )
        body = answer.json() if answer.status_code == httpx.codes.OK else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _row(server: Mapping[str, Any], replica: Mapping[str, Any], state: Mapping[str, Any]) -> Row:
    synced = bool(state) and (state.get("revision"), state.get("hash")) == (server["revision"], server["hash"])
    if replica["stopping"]:
        note = "drains"
    elif not replica["ready"]:
        note = "starts" if replica["pid"] else "waits to start again"
    elif not state:
        note = "does not answer"
    elif replica["unready"]:
        note = f"should get no requests: {replica['unready']}"
    else:
        note = "" if synced else f"should run revision {server['revision']}"
    scope = "" if server["namespace"] == "default" else f"{server['namespace']}/"
    return Row(
        server=scope + server["name"],
        replica=replica["name"],
        url=replica["url"],
        ready=replica["ready"] and not replica["unready"] and bool(state),
        running=state.get("running"),
        waiting=state.get("waiting"),
        kv_usage=state.get("kvUsage"),
        revision=state.get("revision"),
        synced=synced,
        restarts=replica["restarts"],
        note=note,
        kv_events=_endpoint(state),
        ranks=_ranks(replica, state),
    )


def _ranks(replica: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[RankRow, ...]:
    ranks = state.get("ranks", ())
    if len(ranks) < 2:
        return ()
    base, ports = replica["url"].rpartition(":")[0], replica["ports"]
    return tuple(
        RankRow(
            rank["rank"],
            f"{base}:{ports[index]}" if len(ports) == len(ranks) else replica["url"],
            rank["running"],
            rank["waiting"],
            rank["kvUsage"],
            _endpoint(rank),
        )
        for index, rank in enumerate(ranks)
    )


def _endpoint(state: Mapping[str, Any]) -> str | None:
    endpoint: str | None = (state.get("kvEvents") or {}).get("endpoint")
    return endpoint
