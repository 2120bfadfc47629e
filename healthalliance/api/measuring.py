"""Count and time all requests, at the outermost layer."""

from __future__ import annotations

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from healthalliance.api import metrics

_STREAM = b"text/event-stream; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measured:
    """ASGI middleware; a request that no route takes counts under the route `none`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started, is_stream = "500", perf_counter(), False

        async def noting(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = str(message["status"])
                is_stream = (b"content-type", _STREAM) in message["headers"]
            await send(message)

        metrics.CONNECTIONS.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            metrics.CONNECTIONS.dec()
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.REQUESTS.labels(method, route, status).inc()
            if not is_stream:  # which lasts as long as somebody watches
                metrics.REQUEST_SECONDS.labels(method, route).observe(perf_counter() - started)
