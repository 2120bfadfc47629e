"""Serve the API, and its metrics on a port of their own."""

from __future__ import annotations

import uvicorn
from prometheus_client import start_http_server

from connectors.settings import Settings
from healthalliance.api import metrics
from healthalliance.api.app import create_app
from schemas.errors import ConfigurationError

_STOP_S = 10


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, when requests under way are answered first.

    Raises ConfigurationError for a port that is taken.
    """
    try:
        start_http_server(settings.api_metrics_port, settings.metrics_host, registry=metrics.REGISTRY)
    except OSError as error:
        raise ConfigurationError(f"API_METRICS_PORT {settings.api_metrics_port}: {error.strerror}.") from error
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_level=settings.log_level.lower(),
        access_log=False,  # paths hold ids
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
    )
