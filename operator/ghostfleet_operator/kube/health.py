"""`/healthz`, `/readyz` and `/metrics` of the operator process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ghostfleet_operator.kube.metrics import OperatorMetrics


class HealthServer:
    """Answers probes and scrapes. `unhealthy` and `unready` tell why not, or None."""

    def __init__(
        self, metrics: OperatorMetrics, unhealthy: Callable[[], str | None], unready: Callable[[], str | None]
    ) -> None:
        self._metrics = metrics
        self._app = web.Application()
        self._app.router.add_get("/healthz", _probe(unhealthy))
        self._app.router.add_get("/readyz", _probe(unready))
        self._app.router.add_get("/metrics", self._scrape)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `OSError` where the port is taken."""
        runner = web.AppRunner(self._app, access_log=None, handle_signals=False)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, host, port, shutdown_timeout=1).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _probe(trouble: Callable[[], str | None]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        reason = trouble()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    return answer
