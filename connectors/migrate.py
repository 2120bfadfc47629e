"""Bring the database to the newest migration."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from schemas.errors import UnavailableError

_LOCK = 7_205_759_403_792_794  # any number, the same in every process


def migrate(database_url: str) -> None:
    """Apply what is missing, one process at a time; raise UnavailableError where the database does not answer."""
    with _connected(database_url) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = _config(connection)
        command.upgrade(config, "head")
        connection.execute(text("SELECT ensure_risk_score_partitions(current_date, 3)"))
        connection.commit()


def is_migrated(database_url: str) -> bool:
    """Tell whether the database has the newest migration."""
    with _connected(database_url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        return current == ScriptDirectory.from_config(_config(connection)).get_current_head()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _connected(database_url: str) -> Connection:
    try:
        return _engine(database_url).connect()
    except OperationalError:
        raise UnavailableError("PostgreSQL does not answer; look at DATABASE_URL.") from None


def _engine(database_url: str) -> Engine:
    # The synchronous driver; asyncpg is the hot path's.
    return create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
