"""Read analysts' views as an analyst may: one moment for all that is read, and nothing can be written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from connectors.roles import INSTITUTION_SETTING
from connectors.store import AWAY, unanswered
from schemas.errors import ConfigurationError, UnavailableError


@asynccontextmanager
async def reading(database_url: str, institution: str | None = None) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a read-only transaction of one moment, narrowed to an institution if one is named.

    Raises UnavailableError where the database does not answer or lacks the views, ConfigurationError where the login
    may not read them.
    """
    connection = None
    try:
        narrowed = {INSTITUTION_SETTING: institution} if institution else {}
        connection = await asyncpg.connect(database_url, timeout=10, server_settings=narrowed)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    except (*AWAY, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise unanswered(error) from error
    except (asyncpg.UndefinedTableError, asyncpg.InvalidCatalogNameError) as error:
        raise UnavailableError("The database lacks its views; `healthalliance up` or a worker makes them.") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            "The login of DATABASE_URL may not read the views: it is not in role analyst."
        ) from error
    finally:
        if connection is not None:
            await connection.close()
