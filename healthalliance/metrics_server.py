"""A port for Prometheus, for processes that have no web server of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from schemas.errors import ConfigurationError


def serve_metrics(host: str, port: int, setting: str, registry: CollectorRegistry) -> Callable[[], None]:
    """Serve a registry from a thread, and return what ends that.

    Raises ConfigurationError, which names the `setting`, where the port cannot be used.
    """
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(f"{setting} {port} cannot be used: {error.strerror}.") from error
    return server.shutdown
