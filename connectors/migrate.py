"""Bring the database to the newest migration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from connectors.roles import ROLES
from connectors.store import unanswered

_LOCK = 7_205_759_403_792_794  # any number, the same in every process
_DEADLOCK = "40P01"  # with whoever reads several tables: nothing is changed then, and it can be tried again
_TRIES = 5
_T = TypeVar("_T")


def migrate(database_url: str, schema: str | None = None) -> None:
    """Apply what is missing, one process at a time; raise UnavailableError where the database does not answer.

    With a `schema`, the tables are made there, and those elsewhere are left alone. Tables that a later release made are
    left alone too: it leaves what this one reads, so that old and new run side by side and a rollback starts.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            asyncio.run(_with_connection(database_url, _upgrade, schema))
            return
        except DBAPIError as error:
            if not tries_left or getattr(error.orig, "sqlstate", None) != _DEADLOCK:
                raise


def is_migrated(database_url: str) -> bool:
    """Tell whether the database has the newest migration, or a later release's.

    Raises UnavailableError where it does not answer.
    """
    return asyncio.run(_with_connection(database_url, _is_current))


def _upgrade(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not _is_current(connection):
        _wait_for_batches(connection)
        command.upgrade(_config(connection), "head")
    connection.execute(text("SELECT ensure_risk_score_partitions(current_date, 3)"))
    connection.execute(text("SELECT make_roles(:names)"), {"names": list(ROLES)})
    connection.execute(text("SELECT protect_rows()"))
    connection.execute(text("SELECT grant_analysts()"))


def _wait_for_batches(connection: Connection) -> None:
    """Lock what every batch begins with: one under way would want tables that a migration holds, and the other way."""
    if connection.scalar(text("SELECT to_regclass('stream_progress') IS NOT NULL")):
        connection.execute(text("LOCK TABLE stream_progress IN ACCESS EXCLUSIVE MODE"))


def _is_current(connection: Connection) -> bool:
    head = ScriptDirectory.from_config(_config(connection)).get_current_head()
    return _revision(connection) == head or _is_later(connection)


def _is_later(connection: Connection) -> bool:
    known = {one.revision for one in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
    return _revision(connection) not in {None, *known}


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


async def _with_connection(database_url: str, act: Callable[[Connection], _T], schema: str | None = None) -> _T:
    engine = create_async_engine(
        database_url.replace("postgresql://", "postgresql+asyncpg://", 1),
        connect_args={"server_settings": {"search_path": f'"{schema}"'}} if schema else {},
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(act)
    except (OSError, InterfaceError, OperationalError) as error:
        raise unanswered(error) from error
    finally:
        await engine.dispose()
