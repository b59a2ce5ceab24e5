"""The routes that llm-d-inference-sim has beside vLLM's, on the serving port.

Source: its docs/api.md at commit eec055a. Errors have the form of the serving API.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ghostfleet_simulator.api.errors import bad_request
from ghostfleet_simulator.api.side_channel import side_channels
from ghostfleet_simulator.config import TYPED_ERRORS, Backend
from ghostfleet_simulator.llmd.fake_metrics import fake_metrics
from ghostfleet_simulator.llmd.load import DEV_MODE
from ghostfleet_simulator.llmd.settings import SETTINGS, LlmdSettings
from ghostfleet_simulator.llmd.translate import live_tree, settings_in_force, times_patch
from ghostfleet_simulator.problems import InvalidInput, Problem, validated
from ghostfleet_simulator.runtime.server import SimulatedServer

_FAKES: Final = "fake-metrics"
_RATES: Final = frozenset({"failure-injection-rate", "failure-types"})


class _AdminConfig:
    """What `/admin/config` reads and changes."""

    def __init__(self, server: SimulatedServer, start: LlmdSettings | None) -> None:
        self._server = server
        self._start = start
        self._fakes: dict[str, Any] = dict(start.fake_metrics or {}) if start else {}

    def settings(self) -> LlmdSettings:
        return settings_in_force(self._server.in_force.document.config, self._start)

    def told(self) -> dict[str, Any]:
        """The configuration in force, with the names of llm-d-inference-sim's answer."""
        settings = self.settings().model_dump(mode="json", by_alias=True)
        if self._server.config.data_parallel_size > 1:
            del settings["port"]  # each rank has its own
        return {
            **settings,
            _FAKES: self._fakes or None,
            "IP": os.environ.get("POD_IP", ""),
            "PodName": os.environ.get("POD_NAME", ""),
            "PodNameSpace": os.environ.get("POD_NAMESPACE", ""),
            "DisplayModelName": self._server.config.model.aliases[0],
            "VllmDevMode": os.environ.get(DEV_MODE) == "1",
        }

    def change(self, body: Mapping[str, Any]) -> None:
        """Take over some settings, all or none. Raises `InvalidInput`."""
        for key in body:
            if key not in SETTINGS or not SETTINGS[key].hot:
                raise InvalidInput([Problem("", f"field '{key}' is not admin-configurable")])
        given = {key: value for key, value in body.items() if value is not None}
        fakes = given.pop(_FAKES, None)
        wanted = validated(LlmdSettings, self.settings().model_dump(by_alias=True) | given)
        patch: dict[str, Any] = {}
        if _RATES & given.keys():
            others = [
                f
                for f in self._server.in_force.document.to_json()["config"].get("failures", ())
                if f["type"] not in TYPED_ERRORS
            ]
            patch["failures"] = [*others, *live_tree(wanted, ("failures",)).get("failures", ())]
        if times := times_patch(wanted, given):
            backend = self._server.in_force.document.config.profile.backend
            if backend is not Backend.SIMPLE:
                text = f"times per request are not in use: the profile's backend is {backend}"
                raise InvalidInput([Problem("", text)])
            patch["profile"] = {"simple": times}
        if fakes is not None:
            patch["fakeMetrics"] = self._fakes_patch(fakes, wanted.max_loras)
        if patch:
            self._server.patch(patch)
        if fakes is not None:
            self._fakes = {
                key: value for key, value in {**self._fakes, **_given(fakes)}.items() if value not in ([], {})
            }

    def _fakes_patch(self, fakes: object, max_loras: int) -> dict[str, str | None]:
        """A merge patch: what a key showed before goes, what it is to show now comes."""
        if not isinstance(fakes, Mapping):
            raise InvalidInput([Problem(_FAKES, "must be an object")])
        given = _given(fakes)
        before = {key: value for key, value in self._fakes.items() if key in given}
        now = {key: value for key, value in given.items() if value not in ([], {})}
        gone: dict[str, str | None] = dict.fromkeys(fake_metrics(before, _FAKES, max_loras))
        return gone | fake_metrics(now, _FAKES, max_loras)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def llmd_routes(server: SimulatedServer, start: LlmdSettings | None) -> APIRouter:
    """Its configuration, probes, engine ids and, outside of development mode, its sleep that changes nothing.

    `start` is its command line, where the server was started with one.
    """
    router = APIRouter()
    config = _AdminConfig(server, start)

    @router.get("/admin/config")
    async def get_config() -> JSONResponse:
        """The configuration in force."""
        return JSONResponse(config.told())

    @router.post("/admin/config")
    async def post_config(request: Request) -> JSONResponse:
        """Change live settings; durations are strings, or whole nanoseconds."""
        _apply(config, await _body(request))
        return JSONResponse(config.told())

    @router.post("/fake_metrics", status_code=204)
    async def post_fake_metrics(request: Request) -> Response:
        """Change fake metrics."""
        _apply(config, {_FAKES: await _body(request)})
        return Response(status_code=204)

    @router.get("/health/ready", response_class=Response)
    async def ready() -> Response:
        """Whether the server should get traffic; the body is empty."""
        return Response(status_code=503 if server.unready else 200)

    if server.config.listen.port not in side_channels(server):
        made_up = {str(rank): {"engine_id": str(uuid.uuid4())} for rank in range(server.config.data_parallel_size)}

        @router.get("/query")
        async def query() -> JSONResponse:
            """What Mooncake's bootstrap, where it is not at this port itself, tells of the engines."""
            exchanges = server.ranks.exchanges
            own = {str(one.rank): {"engine_id": one.protocol.engine_id} for one in exchanges}
            return JSONResponse(own or made_up)

    if not server.config.http.development_mode:
        for path in ("/sleep", "/wake_up"):
            router.add_api_route(path, _overlooked, methods=["POST"], response_class=Response)

        @router.get("/is_sleeping")
        async def is_sleeping() -> JSONResponse:
            """Whether the server sleeps."""
            return JSONResponse({"is_sleeping": False})

    return router


async def _overlooked() -> Response:
    """Without development mode nothing happens."""
    return Response()


def _apply(config: _AdminConfig, body: Mapping[str, Any]) -> None:
    try:
        config.change(body)
    except InvalidInput as error:
        raise bad_request(str(error)) from None


async def _body(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise bad_request(f"failed to unmarshal payload: {error}") from None
    if not isinstance(found, dict):
        raise bad_request("failed to unmarshal payload: must be a JSON object")
    return found
