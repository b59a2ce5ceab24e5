"""The admin API of one replica, on a port of its own: what it runs, what it should run, what it did.

Errors are `{"error": {"message", ...}}`; one about the content of a body has `problems`, each with the path of a field.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as RouterError

from ghostfleet_simulator.api.injected import FAULT_HEADER
from ghostfleet_simulator.bearer import Bearer
from ghostfleet_simulator.config import FailureType
from ghostfleet_simulator.document import Document, InForce, Refused, differing, restart_hash
from ghostfleet_simulator.metrics.requests import CAPACITY
from ghostfleet_simulator.problems import InvalidInput, Problem
from ghostfleet_simulator.runtime.ranks import Rank
from ghostfleet_simulator.runtime.replica import Replica

LARGEST_BODY: Final = 2**20
"""Bytes of the largest body that is read."""

_log = logging.getLogger("ghostfleet.admin")


def _guard(bearer: Bearer | None) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        """Refuse a request without a token."""
        if bearer and not bearer.accepts(request.headers.get("authorization", "")):
            raise HTTPException(
                401,
                "the admin token is missing or wrong: send it as 'Authorization: Bearer <token>'",
                {"www-authenticate": "Bearer"},
            )

    return check


def build_admin(replica: Replica, bearer: Bearer | None) -> FastAPI:
    """The admin API of `replica`; with `bearer` every route but `/admin/ready` wants a token, else nobody needs one."""
    app = FastAPI(title="Ghostfleet admin API", openapi_url=None)
    guarded = APIRouter(prefix="/admin", dependencies=[Depends(_guard(bearer))])
    _configuration(guarded, replica)
    _state(guarded, replica)
    app.include_router(guarded)

    @app.get("/admin/ready")
    async def ready() -> Response:
        reason = replica.unready
        headers = {}
        if reason == FailureType.UNREADY:
            replica.servers[0].metrics.count_fault(FailureType.UNREADY)
            headers[FAULT_HEADER] = reason
        if reason:
            return JSONResponse({"ready": False, "reason": reason}, 503, headers)
        return JSONResponse({"ready": True})

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _configuration(router: APIRouter, replica: Replica) -> None:
    def taken_over(state: InForce) -> dict[str, Any]:
        since = datetime.fromtimestamp(replica.servers[0].metrics.own.profile_since, UTC)
        return {
            "revision": state.revision,
            "hash": state.document.hash,
            "appliedAt": since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "pendingRestart": differing(replica.config, state.document.config),
        }

    @router.get("/config")
    async def get_config() -> dict[str, Any]:
        return replica.in_force.document.to_json()

    @router.put("/config")
    async def put_config(request: Request) -> dict[str, Any]:
        return taken_over(replica.offer(Document.parse(await _json(request))))

    @router.patch("/config")
    async def patch_config(request: Request) -> dict[str, Any]:
        return taken_over(replica.patch(await _json(request)))


def _state(router: APIRouter, replica: Replica) -> None:
    @router.get("/state")
    async def get_state() -> dict[str, Any]:
        first, state, ranks = replica.servers[0], replica.in_force, [_told(rank) for rank in replica.ranks]
        return {
            "revision": state.revision,
            "hash": state.document.hash,
            "restartHash": restart_hash(replica.config),
            "model": replica.config.model.aliases[0],
            "ready": not replica.unready,
            "draining": replica.draining,
            "uptimeSeconds": round(first.metrics.uptime_seconds, 3),
            "requests": replica.totals(),
            **{name: sum(rank[name] for rank in ranks) for name in ("running", "waiting", "deferred")},
            "adapters": first.adapters.told(),
            "kvUsage": sum(rank["kvUsage"] for rank in ranks) / len(ranks),
            "kvEvents": ranks[0]["kvEvents"],
            "kvTransfer": ranks[0]["kvTransfer"],
            "ranks": ranks,
        }

    @router.get("/requests")
    async def get_requests(limit: Annotated[int, Query(ge=1, le=CAPACITY)] = CAPACITY) -> dict[str, Any]:
        return {"total": replica.requests, "requests": [record.to_json() for record in replica.newest(limit)]}

    @router.post("/drain", status_code=202)
    async def drain() -> dict[str, Any]:
        replica.drain()
        return {"draining": True}


def _told(rank: Rank) -> dict[str, Any]:
    engine, publisher = rank.engine, rank.kv_events
    return {
        "rank": rank.number,
        "requests": rank.metrics.totals(),
        "running": engine.running,
        "waiting": engine.waiting,
        "deferred": engine.deferred,
        "kvUsage": engine.kv_usage,
        "kvEvents": publisher.told() if publisher else None,
        "kvTransfer": rank.exchange.told() if rank.exchange else None,
    }


async def _json(request: Request) -> object:
    """The body as JSON, read no further than the limit; raises `InvalidInput` or a 413."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > LARGEST_BODY:
        _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            _too_large()
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidInput([Problem("", "the body is nested too deeply")]) from None
    except ValueError as error:
        raise InvalidInput([Problem("", f"the body is not JSON: {error}")]) from None


def _too_large() -> NoReturn:
    raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


# --- errors --------------------------------------------------------------------------------------


def _error(status: int, message: str, problems: Iterable[Problem] = (), headers: Any = None) -> Response:
    error: dict[str, Any] = {"message": message}
    if found := [{"path": problem.path, "message": problem.message} for problem in problems]:
        error["problems"] = found
    return JSONResponse({"error": error}, status, headers)


async def _invalid(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    problems = error.problems if isinstance(error, InvalidInput) else ()
    return _error(422, str(error), problems)


async def _invalid_query(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    problems = [Problem(".".join(map(str, item["loc"][1:])), item["msg"]) for item in found]
    return _error(422, "; ".join(map(str, problems)), problems)


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return _error(409, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)  # noqa: S101 - it is registered for nothing else
    message = error.detail if error.status_code not in (404, 405) else f"{error.detail}: {request.url.path}"
    return _error(error.status_code, message, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed: %r", request.method, request.url.path, error)
    return _error(500, "the server failed; its log says how")


async def _not_kept(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed: %r", request.method, request.url.path, error)
    return _error(500, "the document could not be kept over a restart and is not in force; the log says why")


_HANDLERS: Final[dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]] = {
    InvalidInput: _invalid,
    RequestValidationError: _invalid_query,
    Refused: _refused,
    RouterError: _http,
    OSError: _not_kept,
    Exception: _unexpected,
}
