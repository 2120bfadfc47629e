"""One training run at a time, wherever it runs: an advisory lock in PostgreSQL, which all machines share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg

from connectors.store import AWAY, unanswered
from schemas.errors import TrainingUnderWayError

_TIMEOUT_S = 10.0
_SESSION = {
    "application_name": "healthalliance train",
    # A machine that vanishes lets go within two minutes instead of hours.
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "15",
    "tcp_keepalives_count": "4",
}


@contextmanager
def only_training_run(database_url: str, model_name: str) -> Iterator[None]:
    """Hold the lock of a model's training; it goes with the connection, so a process that dies leaves none behind.

    Raises TrainingUnderWayError where another run holds it, UnavailableError where the database does not answer. The
    address must lead to PostgreSQL itself: a pooler that deals out connections by the transaction would lose the lock.
    """
    loop = asyncio.new_event_loop()
    try:
        connection = loop.run_until_complete(_locked(database_url, model_name))
        try:
            yield
        finally:
            with suppress(*AWAY):
                loop.run_until_complete(connection.close(timeout=_TIMEOUT_S))
    finally:
        loop.close()


def lock_key(model_name: str) -> int:
    """Return the lock's number for a model: 64 bits, signed, of its name's SHA-256."""
    return int.from_bytes(hashlib.sha256(f"train {model_name}".encode()).digest()[:8], "big", signed=True)


async def _locked(database_url: str, model_name: str) -> asyncpg.Connection:
    try:
        connection = await asyncpg.connect(database_url, timeout=_TIMEOUT_S, server_settings=_SESSION)
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(model_name)):
            return connection
        await connection.close(timeout=_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise unanswered(error) from error
    raise TrainingUnderWayError(f"Another training run of {model_name} is going on; try again when it has ended.")
