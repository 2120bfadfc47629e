"""Headers of every answer, so that no browser keeps it, frames it, runs it or takes it for something else.

Source: OWASP REST Security and HTTP Headers cheat sheets. What an answer says itself, as the page does, holds.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# What FastAPI shows the description with comes from elsewhere, and holds a script of its own.
_DESCRIPTION = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    "worker-src blob:; frame-ancestors 'none'"
}
_SECURE = {"Strict-Transport-Security": "max-age=31536000"}


class Protected:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and add what its answer does not say itself."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = _HEADERS | (_DESCRIPTION if scope["path"] in ("/docs", "/redoc") else {})
        wanted |= _SECURE if scope["scheme"] == "https" else {}

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in wanted.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, adding)
