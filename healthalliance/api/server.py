"""Serve the API, and its metrics on a port of their own."""

from __future__ import annotations

from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from connectors.logs import log_to_stderr
from connectors.models.signing import warn_of_unsigned
from connectors.settings import Settings
from connectors.tracing import start_tracing
from healthalliance.api import metrics
from healthalliance.api.app import create_app
from healthalliance.metrics_server import serve_metrics

_STOP_S = 10


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, when requests under way are answered first.

    Raises ConfigurationError for a port that is taken.
    """
    serve_metrics(settings.metrics_host, settings.api_metrics_port, "API_METRICS_PORT", metrics.REGISTRY)
    log_to_stderr(settings)
    start_tracing(settings, "api")
    warn_of_unsigned(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        log_level=settings.log_level.lower(),
        access_log=False,  # paths hold ids
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
    )
    with suppress(KeyboardInterrupt):  # the signal that ended it, once more
        _Server(config, app).run()


class _Server(uvicorn.Server):
    """A server that, told to stop, ends the answers that have no end by themselves."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that a signal came."""
        super().handle_exit(sig, frame)
        if (service := getattr(self._app.state, "service", None)) is not None:
            service.changes.close()
