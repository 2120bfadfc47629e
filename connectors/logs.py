"""Logging of a process of its own, to standard error."""

from __future__ import annotations

import logging
import sys

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
    "stamina",
)


def log_to_stderr(level: str) -> None:
    """Log from `level` on, of the libraries only warnings and what is worse."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
