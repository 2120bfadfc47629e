"""Logging of a process of its own, to standard error: lines for people, or one JSON object a line for a log store."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog
from opentelemetry import trace

from connectors.settings import Settings


def log_to_stderr(settings: Settings) -> None:
    """Log from LOG_LEVEL on, of the libraries only warnings and what is worse, as LOG_FORMAT says.

    Libraries' own lines tell of each request, its address and its content, so LOG_LEVEL does not open them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if settings.log_format == "json" else _text())
    logging.basicConfig(level=max(logging.WARNING, logging.getLevelName(settings.log_level)), handlers=[handler])
    logging.getLogger("healthalliance").setLevel(settings.log_level)


def without_values(error: BaseException) -> BaseException:
    """Return an error's kind and where it happened: its text, notes and causes may quote a row or an event.

    >>> without_values(UnicodeDecodeError("utf-8", b"Jane", 0, 1, "of Jane"))
    UnicodeDecodeError()
    """
    kind = type(error)
    like: type[Exception] = type(kind.__name__, (Exception,), {"__module__": kind.__module__})
    return like().with_traceback(error.__traceback__)


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
