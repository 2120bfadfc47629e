"""All that the tables hold of one patient: count it, read it, clear away what an erasure leaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import stamina

from connectors.store import ERASED_TABLES, FOUND_BY_ENCOUNTER, rows_of_patient
from schemas.history import PatientHistory, decode_history, encode_history
from schemas.pseudonyms import InstitutionKeys

# The tables that name a patient and an encounter; `patient_history` is apart.
PATIENT_TABLES = (*ERASED_TABLES, "score_outcomes", "patient_encounters")

_TIMES = {
    "risk_scores": "scored_at",
    "challenger_scores": "scored_at",
    "alerts": "decided_at",
    "cds_cards": "served_at",
}


@dataclass(frozen=True, slots=True)
class Person:
    """A patient by the institution's own id and by the pseudonym, with the institution's keys."""

    institution: str
    keys: InstitutionKeys
    id: str

    @property
    def pseudonym(self) -> str:
        """The patient's pseudonym."""
        return self.keys.patient_pseudonym(self.id)


async def read_history(connection: asyncpg.Connection[Any], person: Person) -> PatientHistory | None:
    """Return the patient's history, None where there is no row. Raises cryptography's InvalidTag for another key."""
    sealed = await connection.fetchval(
        "SELECT history FROM patient_history WHERE institution = $1 AND patient_pseudonym = $2",
        person.institution,
        person.pseudonym,
    )
    return None if sealed is None else decode_history(person.keys.unseal(sealed, person.pseudonym))


def encounters_of(history: PatientHistory | None, keys: InstitutionKeys) -> set[str]:
    """Name all encounters that a history tells of, those that were erased too, by pseudonym."""
    return set() if history is None else {*map(keys.encounter_pseudonym, history.encounters), *history.erased}


async def count_rows(
    connection: asyncpg.Connection[Any], person: Person, encounters: Collection[str], spared: Collection[str] = ()
) -> dict[str, int]:
    """Count the patient's rows by table. `encounters`: those that may be meant, `spared`: not meant, by pseudonym."""
    counts = {}
    for table in PATIENT_TABLES:
        found = _found_by(table, person, encounters)
        count = f"SELECT count(*) FROM {table} WHERE {_but(table, found)}"
        counts[table] = int(await connection.fetchval(count, *found, list(spared)))
    history = await read_history(connection, person)
    # What only says that events are refused is not of the patient's care.
    return {"patient_history": int(history not in (None, PatientHistory(refused=True))), **counts}


async def read_rows(
    connection: asyncpg.Connection[Any], person: Person, encounters: Collection[str], tables: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the patient's rows of some tables, oldest first where rows have a time."""
    return {
        table: [
            dict(row)
            for row in await connection.fetch(
                f"SELECT * FROM {table} WHERE {rows_of_patient(table)} ORDER BY {_TIMES.get(table, 1)}",
                *_found_by(table, person, encounters),
            )
        ]
        for table in tables
    }


async def first_known(
    connection: asyncpg.Connection[Any], person: Person, history: PatientHistory | None, encounters: Collection[str]
) -> datetime | None:
    """Return when the first event arrived of which a score or its state is left, None where none is."""
    first = await connection.fetchval(
        f"SELECT min(received_at) FROM risk_scores WHERE {rows_of_patient('risk_scores')}",
        *_found_by("risk_scores", person, encounters),
    )
    states = history.scores.values() if history else ()
    return min([state.received_at for state in states] + ([first] if first else []), default=None)


async def clear_away(connection: asyncpg.Connection[Any], person: Person) -> None:
    """Remove what an erasure leaves: rows written after it, whose each encounter was, the encounters' pseudonyms.

    Tombstones of these encounters' features must have been confirmed: nothing will know of them afterwards. Of a
    patient who came back the new encounters' rows stay, of one whose events are refused a history that says so alone.
    """
    async for attempt in stamina.retry_context(on=asyncpg.SerializationError, attempts=20, timeout=60.0):
        with attempt:
            # What a worker commits meanwhile is either seen as a whole, or the whole is tried again.
            async with connection.transaction(isolation="repeatable_read"):
                await _clear_away(connection, person)


async def _clear_away(connection: asyncpg.Connection[Any], person: Person) -> None:
    key = (person.institution, person.pseudonym)
    row = await connection.fetchrow(
        """SELECT revision, history FROM patient_history WHERE institution = $1 AND patient_pseudonym = $2
           FOR UPDATE""",
        *key,
    )
    history = decode_history(person.keys.unseal(row["history"], person.pseudonym)) if row else PatientHistory()
    now = set(map(person.keys.encounter_pseudonym, history.encounters))
    gone = set(history.erased) - now
    for table in PATIENT_TABLES:
        found = _found_by(table, person, gone)
        await connection.execute(f"DELETE FROM {table} WHERE {_but(table, found)}", *found, list(now))
    left = msgspec.structs.replace(history, erased=())
    if left == PatientHistory():
        await connection.execute("DELETE FROM patient_history WHERE institution = $1 AND patient_pseudonym = $2", *key)
    elif left != history:
        await connection.execute(
            """UPDATE patient_history SET history = $3, revision = revision + 1, updated_at = now()
               WHERE institution = $1 AND patient_pseudonym = $2""",
            *key,
            person.keys.seal(encode_history(left), person.pseudonym),
        )


async def clear_rejections(connection: asyncpg.Connection[Any], places: Collection[tuple[str, int, int]]) -> None:
    """Remove what the tables say of rejected events by (topic id, partition, offset)."""
    at = [list(one) for one in zip(*places, strict=True)] or [[], [], []]
    for table in ("rejection_resolutions", "rejected_events"):
        await connection.execute(
            f"""DELETE FROM {table} AS held USING unnest($1::uuid[], $2::int[], $3::bigint[]) AS gone(topic, number, at)
                WHERE held.topic_id = gone.topic AND held.source_partition = gone.number
                  AND held.source_offset = gone.at""",
            *at,
        )


async def read_rejections(
    connection: asyncpg.Connection[Any], places: Collection[tuple[str, int, int]]
) -> list[Mapping[str, Any]]:
    """Return what the tables say of rejected events by (topic id, partition, offset), in the order they came."""
    at = [list(one) for one in zip(*places, strict=True)] or [[], [], []]
    return list(
        await connection.fetch(
            """SELECT held.*, resolution, resolved_at, redriven_offset, because
               FROM rejected_events AS held
               JOIN unnest($1::uuid[], $2::int[], $3::bigint[]) AS wanted(topic_id, source_partition, source_offset)
                    USING (topic_id, source_partition, source_offset)
               LEFT JOIN rejection_resolutions USING (topic_id, source_partition, source_offset)
               ORDER BY received_at, source_partition, source_offset""",
            *at,
        )
    )


def _but(table: str, found: tuple[object, ...]) -> str:
    """Write the condition for a patient's rows but those of the encounters that follow `found` as a parameter."""
    return f"{rows_of_patient(table)} AND encounter_pseudonym <> ALL(${len(found) + 1}::uuid[])"


def _found_by(table: str, person: Person, encounters: Collection[str]) -> tuple[object, ...]:
    patient = (person.institution, person.pseudonym)
    return (*patient, list(encounters)) if table in FOUND_BY_ENCOUNTER else patient
