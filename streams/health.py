"""The worker's own web server: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from schemas.errors import ConfigurationError
from streams import metrics


async def serve_health(host: str, port: int, why_not_ready: Callable[[], str | None]) -> web.AppRunner:
    """Serve until the returned runner is cleaned up; raise ConfigurationError where the port is taken.

    `why_not_ready` says in a few words what keeps the worker from consuming, None while it does.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        reason = why_not_ready()
        metrics.READY.set(reason is None)
        if reason is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    async def exposition(request: web.Request) -> web.Response:
        metrics.READY.set(why_not_ready() is None)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.REGISTRY), headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigurationError(f"METRICS_PORT {port} cannot be used: {error.strerror}.") from error
    return runner
