"""`KubeApi` over the official client's connection: raw calls, no discovery (and so no cache on disk), no models."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient

from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.plan.naming import FIELD_MANAGER
from ghostfleet_operator.reconcile.api import (
    Conflict,
    Invalid,
    Kind,
    KubeError,
    NotLeading,
    Object,
    Objects,
    Retry,
    essential,
    kind_of,
)

STATUS_MANAGER: Final = f"{FIELD_MANAGER}-status"
SCALE_MANAGER: Final = f"{FIELD_MANAGER}-scale"

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_PAGE: Final = "500"
_LIST_ATTEMPTS: Final = 3


@dataclass(slots=True)
class _Session:
    """Connections under one login, and the requests that are under way on them."""

    client: ApiClient
    users: int = 0


class KubeClient:
    """Talks to one API server.

    `budget` is awaited before each write. `write_seconds` tells how long a write that begins now may take, and 0 where
    none may begin; a write that takes longer is cut off.
    """

    def __init__(
        self,
        login: Login,
        budget: Callable[[], Awaitable[None]],
        write_seconds: Callable[[], float] = lambda: math.inf,
        user_agent: str = FIELD_MANAGER,
    ) -> None:
        self._login = login
        self._budget = budget
        self._write_seconds = write_seconds
        self._user_agent = user_agent
        self._current: _Session | None = None
        self._logging_in = asyncio.Lock()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Requests so far by verb, resource (`plural` or `plural/status`) and status; status 0 is no answer."""
        self.answered: Callable[[str, str, float], None] | None = None
        """Is told verb, resource and seconds of each request."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        try:
            return await self._call("GET", kind, _path(kind, namespace, name))
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> Objects:
        """All objects of a kind in a namespace (None: in all of them) that a label selector matches, what is
        `essential` of them; in pages."""
        for attempt in range(_LIST_ATTEMPTS):
            try:
                return await self._pages(kind, namespace, labels)
            except KubeError as error:
                # The snapshot that the pages come from expired; a new list starts from a new one.
                if error.status != HTTPStatus.GONE or attempt == _LIST_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _pages(self, kind: Kind, namespace: str | None, labels: str) -> Objects:
        found: Objects = []
        query = {"limit": _PAGE} | ({"labelSelector": labels} if labels else {})
        while True:
            page = await self._call("GET", kind, _path(kind, namespace), query, verb="LIST")
            for item in page.get("items") or ():
                # Items of a list come without their type.
                typed = {"apiVersion": kind.api_version, "kind": kind.name, **item}
                found.append(essential(kind, typed))  # of a thousand objects the rest is tens of megabytes
            token = page.get("metadata", {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    async def apply(self, obj: Object) -> Object:
        """Server-side apply with force; the live object. With `metadata.resourceVersion` only over that version."""
        return await self._apply(obj, FIELD_MANAGER, "", "Strict")

    async def apply_status(self, obj: Object) -> Object:
        """Server-side apply of the status, under a field manager of its own; the live object."""
        # CRDs of an earlier version know fewer fields of the status; better those than none.
        return await self._apply(obj, STATUS_MANAGER, "/status", "Ignore")

    async def apply_scale(self, obj: Object) -> Object:
        """Server-side apply of some fields only, under a field manager of its own, so that the others stay."""
        return await self._apply(obj, SCALE_MANAGER, "", "Strict")

    async def _apply(self, obj: Object, manager: str, subresource: str, validation: str) -> Object:
        kind, meta = kind_of(obj), obj["metadata"]
        query = {"fieldManager": manager, "force": "true", "fieldValidation": validation}
        await self._budget()
        path = _path(kind, meta.get("namespace"), meta["name"]) + subresource
        return await self._call("PATCH", kind, path, query, obj, subresource=subresource)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object if it still is the one with `uid`; one that is gone is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._budget()
        try:
            await self._call("DELETE", kind, _path(kind, namespace, name), None, body)
        except KubeError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    async def create_event(self, event: Object) -> None:
        """Write a core/v1 Event, over an earlier one of the same name."""
        if event["count"] == 1:
            await self._budget()
            try:
                await self.create(event)
            except Conflict:
                pass  # another process told it before
            else:
                return
        await self._apply(event, FIELD_MANAGER, "", "Strict")

    async def create(self, obj: Object) -> Object:
        """Make an object, at once; raises `Conflict` where there is one of its name."""
        kind = kind_of(obj)
        return await self._call("POST", kind, _path(kind, obj["metadata"].get("namespace")), None, obj)

    async def replace(self, obj: Object) -> Object:
        """Put an object over the version in it, at once; raises `Conflict` where it changed."""
        kind, meta = kind_of(obj), obj["metadata"]
        return await self._call("PUT", kind, _path(kind, meta.get("namespace"), meta["name"]), None, obj)

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind; raises `KubeError`."""
        status, answer, retry_after = await self._request("GET", _root(kind), None, None)
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise _error(status, f"GET {_root(kind)}: {answer.get('message') or f'HTTP {status}'}", retry_after)
        return any(found.get("name") == kind.plural for found in answer.get("resources") or ())

    async def close(self) -> None:
        """Close the connections."""
        session, self._current = self._current, None
        if session:
            await session.client.close()

    async def _call(
        self,
        method: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        verb: str = "",
        subresource: str = "",
    ) -> Object:
        status, resource, began = 0, kind.plural + subresource, time.monotonic()
        try:
            status, answer, retry_after = await self._request(method, path, query, body)
        finally:
            self.requests[verb or method, resource, status] += 1
            if self.answered:
                self.answered(verb or method, resource, time.monotonic() - began)
        if status < HTTPStatus.BAD_REQUEST:
            return answer
        place = path.removeprefix(_root(kind))
        raise _error(status, f"{verb or method} {place}: {answer.get('message') or f'HTTP {status}'}", retry_after)

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None
    ) -> tuple[int, Object, str | None]:
        """Status, body and Retry-After of one request; logs in afresh and tries again where the login expired."""
        async with self._session() as session:
            found = await self._ask(session.client, method, path, query, body)
            if found[0] != HTTPStatus.UNAUTHORIZED:
                return found
            if self._current is session:
                self._current = None
        async with self._session() as session:
            return await self._ask(session.client, method, path, query, body)

    async def _ask(
        self, client: ApiClient, method: str, path: str, query: Mapping[str, str] | None, body: Object | None
    ) -> tuple[int, Object, str | None]:
        headers = {"Accept": "application/json", "Content-Type": _content_type(method)}
        await client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        seconds = math.inf if method == "GET" else self._write_seconds()
        if seconds <= 0:
            raise NotLeading(f"{method} {path} was not sent: this operator does not lead (any more)")
        try:
            async with asyncio.timeout(seconds if math.isfinite(seconds) else None):
                response = await client.rest_client.request(method, url, headers, body, _request_timeout=_TIMEOUT)
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(f"{method} {path}: {str(error) or 'no answer in time'}") from None
        return response.status, _object(raw), response.getheader("retry-after")

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[_Session]:
        """The login in use; one that has been replaced is closed by the last request that used it."""
        async with self._logging_in:
            if self._current is None:
                client = ApiClient(await self._login.configuration())
                client.user_agent = self._user_agent
                self._current = _Session(client)
            session = self._current
            session.users += 1
        try:
            yield session
        finally:
            session.users -= 1
            if session.users == 0 and self._current is not session:
                await session.client.close()


def _root(kind: Kind) -> str:
    return f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{_root(kind)}{scope}/{kind.plural}" + (f"/{quote(name, safe='')}" if name else "")


def _content_type(method: str) -> str:
    # JSON is YAML, and the rest client sends an apply patch as JSON.
    return "application/apply-patch+yaml" if method == "PATCH" else "application/json"


def _object(raw: bytes) -> dict[str, Any]:
    try:
        # Most of an answer is who owns which field; this decoder takes half of json's time for it.
        answer = msgspec.json.decode(raw)
    except ValueError:
        return {"message": raw[:200].decode(errors="replace").strip()}
    return answer if isinstance(answer, dict) else {}


def _error(status: int, message: str, retry_after: str | None) -> KubeError:
    if status in (429, 503) and retry_after and retry_after.isdigit():
        return Retry(message, status, float(retry_after))
    if status == 409:
        return Conflict(message, status)
    if status in (400, 403, 422):
        return Invalid(message, status)
    return KubeError(message, status)
