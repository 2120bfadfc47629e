"""Which key an institution's pseudonyms are made with: the database says its name, the settings hold it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import asyncpg
from cryptography.exceptions import InvalidTag

from connectors.settings import Settings
from schemas.errors import ConfigurationError, UnavailableError
from schemas.pseudonyms import InstitutionKeys, institution_keys


class KeyPair(NamedTuple):
    """The keys in force, and the other ones that are set, None where only one is."""

    keys: InstitutionKeys
    other: InstitutionKeys | None


class Connection(Protocol):
    """A connection to PostgreSQL, or a pool of them."""

    async def fetchrow(self, query: str, *args: object) -> Any:
        """Return a query's first row."""

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement."""


def keys_of_settings(settings: Settings, institution_id: str) -> list[InstitutionKeys]:
    """Derive the institution's keys of `PSEUDONYM_KEY` and, where it is set, of `PSEUDONYM_KEY_PREVIOUS`.

    Raises ConfigurationError for a secret that is missing or short.
    """
    found = [institution_keys(settings.pseudonym_key.get_secret_value(), institution_id)]
    if previous := settings.pseudonym_key_previous.get_secret_value():
        try:
            found.append(institution_keys(previous, institution_id))
        except ConfigurationError:
            raise ConfigurationError("PSEUDONYM_KEY_PREVIOUS is shorter than a key can have been.") from None
    return found


async def keys_in_force(
    connection: Connection, settings: Settings, institution_ids: Iterable[str], *, note: bool = False
) -> dict[str, KeyPair]:
    """Return the keys that each institution's pseudonyms and histories are made with, of those that are set.

    Where the database names none yet, it is the one that a history opens with, or `PSEUDONYM_KEY` while there is none;
    with `note` that is written down. Raises ConfigurationError for a secret that is missing or short, where none of
    those that are set is the one, and while a rotation is not finished.
    """
    found = {}
    for id_ in institution_ids:
        candidates = keys_of_settings(settings, id_)
        row = await connection.fetchrow("SELECT key_id, replaces FROM pseudonym_keys WHERE institution = $1", id_)
        if row is not None and row["replaces"] is not None:
            raise ConfigurationError(
                f"The key of {id_}'s pseudonyms is being rotated; `healthalliance pseudonym rotate` finishes it."
            )
        keys = await _by_history(connection, id_, candidates) if row is None else _by_id(row["key_id"], candidates)
        if keys is None:
            raise ConfigurationError(
                f"PSEUDONYM_KEY is not the key that {id_}'s pseudonyms and histories are made with. To change it, "
                "keep that one as PSEUDONYM_KEY_PREVIOUS until `healthalliance pseudonym rotate` has run."
            )
        if row is None and note:
            await connection.execute(
                "INSERT INTO pseudonym_keys (institution, key_id, since) VALUES ($1, $2, now()) ON CONFLICT DO NOTHING",
                id_, keys.id,
            )  # fmt: skip
        found[id_] = KeyPair(keys, next((one for one in candidates if one.id != keys.id), None))
    return found


def read_keys(settings: Settings, institution_ids: Iterable[str]) -> dict[str, KeyPair]:
    """Return `keys_in_force`; raise UnavailableError where PostgreSQL does not answer or lacks the tables."""

    async def run() -> dict[str, KeyPair]:
        connection = await asyncpg.connect(settings.database_url, timeout=10)
        try:
            return await keys_in_force(connection, settings, institution_ids)
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UnavailableError(f"PostgreSQL at DATABASE_URL does not answer ({type(error).__name__}).") from error


def _by_id(key_id: str, candidates: list[InstitutionKeys]) -> InstitutionKeys | None:
    return next((one for one in candidates if one.id == key_id), None)


async def _by_history(
    connection: Connection, institution_id: str, candidates: list[InstitutionKeys]
) -> InstitutionKeys | None:
    row = await connection.fetchrow(_A_HISTORY, institution_id)
    return candidates[0] if row is None else opens(row["patient_pseudonym"], row["history"], candidates)


def opens(patient_pseudonym: str, sealed: bytes, candidates: Iterable[InstitutionKeys]) -> InstitutionKeys | None:
    """Return the keys that a sealed history opens with, None where none of them is the one."""
    for one in candidates:
        try:
            one.unseal(sealed, patient_pseudonym)
        except InvalidTag:
            continue
        return one
    return None


_A_HISTORY = "SELECT patient_pseudonym::text, history FROM patient_history WHERE institution = $1 LIMIT 1"
