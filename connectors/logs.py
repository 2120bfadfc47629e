"""Logging of a process of its own, to standard error: lines for people, or one JSON object a line for a log store."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog
from opentelemetry import trace

from connectors.settings import Settings

# Their own lines tell of each request and its address.
_CHATTY = (
    "faust",
    "mode",
    "aiokafka",
    "asyncio",
    "asyncpg",
    "kafka",
    "mlflow",
    "alembic",
    "httpx2",
    "httpcore2",
    "opentelemetry",
    "stamina",
    "urllib3",
)


def log_to_stderr(settings: Settings) -> None:
    """Log from LOG_LEVEL on, of the libraries only warnings and what is worse, as LOG_FORMAT says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if settings.log_format == "json" else _text())
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


def _json() -> logging.Formatter:
    """Name what was worked on too: bound context (structlog's), and the trace where one is recorded."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _add_trace,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ],
    )


def _add_trace(_: Any, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        entry["trace_id"] = trace.format_trace_id(context.trace_id)
        entry["span_id"] = trace.format_span_id(context.span_id)
    return entry


def _to_json(entry: Any, **_: Any) -> str:
    return orjson.dumps(entry, default=str).decode()
