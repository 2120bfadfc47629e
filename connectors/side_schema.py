"""A schema beside the live tables: what a replay writes, what was live when it began, and how the two differ."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from connectors.store import unanswered
from schemas.errors import ConfigurationError, UnavailableError
from schemas.rejection import Reason

_MARK = "Made by `healthalliance replay`."
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_HISTORY_REASONS = [str(Reason.VERSION_CONFLICT), str(Reason.DELETED_BEFORE)]


@dataclass(frozen=True, slots=True)
class Source:
    """The log that is replayed; `first_offsets` are where its partitions begin."""

    institution: str
    topic_id: str
    first_offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """From when (inclusive) until when (exclusive) events were received that are compared; None: no bound."""

    since: datetime
    until: datetime | None

    def holds(self, received_at: datetime) -> bool:
        """Tell whether an event received then is compared."""
        return self.since <= received_at and (self.until is None or received_at < self.until)


@dataclass(frozen=True, slots=True)
class Live:
    """What was live when the replay began, beside the rows that were noted.

    next_offsets: how far each partition was applied. begins_later: events were applied that the log holds no more.
    """

    next_offsets: Mapping[int, int]
    begins_later: bool


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Tallies:
    """How live and replayed differ, counted in the database; see the queries for the columns."""

    encounters: Rows
    examples: Rows
    scores: Rows
    rejections: Rows
    left_out_patients: int


@asynccontextmanager
async def side_schema(database_url: str, name: str) -> AsyncIterator[SideSchema]:
    """Open a schema that is there or is to be made.

    Raises UnavailableError where the database does not answer or lacks its tables, ConfigurationError where it
    refuses.
    """
    connection = None
    try:
        connection = await asyncpg.connect(database_url, timeout=10)
        yield SideSchema(connection, name)
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise unanswered(error) from error
    except asyncpg.UndefinedTableError as error:
        raise UnavailableError("The database lacks its tables; `healthalliance up` or a worker makes them.") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError("The role of DATABASE_URL must not make schemas in this database.") from error
    finally:
        if connection is not None:
            await connection.close()


class SideSchema:
    """A schema of a replay's own, over a connection whose search path is the live one's."""

    def __init__(self, connection: asyncpg.Connection[Any], name: str) -> None:
        self._connection, self._name = connection, name

    async def a_live_history(self, institution: str) -> tuple[str, bytes] | None:
        """Return any patient's pseudonym and sealed history, None while there is none."""
        row = await self._connection.fetchrow(
            "SELECT patient_pseudonym::text, history FROM patient_history WHERE institution = $1 LIMIT 1", institution
        )
        return (row["patient_pseudonym"], row["history"]) if row else None

    async def make(self, *, replace: bool) -> None:
        """Make the schema, empty; one that is there is replaced if a replay made it and `replace` is set.

        Raises ConfigurationError for a name that is taken, or under which other sessions could mistake its tables
        for the live ones.
        """
        if not _NAME.fullmatch(self._name) or self._name.startswith("pg_") or self._name == "information_schema":
            raise ConfigurationError(
                f"{self._name} is no name for a replay's schema: give small letters, digits and _, and not pg_…."
            )
        found = await self._connection.fetchrow(_TAKEN, self._name)
        if found["searched"]:
            raise ConfigurationError(f"{self._name} is where live tables are looked for; name another schema.")
        if found["there"]:
            if found["mark"] != _MARK:
                raise ConfigurationError(f"The schema {self._name} exists and was made by no replay; name another.")
            if not replace:
                raise ConfigurationError(f"The schema {self._name} exists; give --replace, or name another.")
        async with self._connection.transaction():
            await self._connection.execute(f'DROP SCHEMA IF EXISTS "{self._name}" CASCADE')
            await self._connection.execute(f'CREATE SCHEMA "{self._name}"')
            await self._connection.execute(f"""COMMENT ON SCHEMA "{self._name}" IS '{_MARK}'""")

    async def note_live(self, source: Source) -> Live:
        """Note, as of one moment, how far the log is applied and what came of it; workers may go on meanwhile.

        Left out are patients known from events that the log does not hold any more, and then also rejections that
        depend on what was known before.
        """
        execute, schema = self._connection.execute, f'"{self._name}"'
        async with self._connection.transaction(isolation="repeatable_read"):
            rows = await self._connection.fetch(_PROGRESS, source.institution)
            own = {
                row["source_partition"]: row["next_offset"] for row in rows if str(row["topic_id"]) == source.topic_id
            }
            begins_later = any(source.first_offsets.values()) or len(own) < len(rows)
            for statement in _TABLES:
                await execute(statement.format(schema=schema))
            ignored = _HISTORY_REASONS if begins_later else []
            await execute(f"INSERT INTO {schema}.ignored_reasons SELECT unnest($1::text[])", ignored)
            firsts = source.first_offsets
            held = source.institution, source.topic_id, list(firsts), list(firsts.values())
            await execute(_NOTE_KNOWN_BEFORE.format(schema=schema), *held)
            await execute(_NOTE_SCORES.format(schema=schema), *held)
            await execute(_NOTE_REJECTED.format(schema=schema), *held, ignored)
        return Live(own, begins_later)

    async def compare(self, window: Window) -> Tallies:
        """Compare what was noted with what the replay wrote, of the events received within the window."""
        async with self._connection.transaction():
            await self._connection.execute(f'SET LOCAL search_path = "{self._name}"')
            for table in ("live_scores", "live_rejected", "risk_scores", "rejected_events"):
                await self._connection.execute(f"ANALYZE {table}")
            bounds = window.since, window.until
            return Tallies(
                encounters=await self._connection.fetch(_ENCOUNTERS, *bounds),
                examples=await self._connection.fetch(_EXAMPLES, *bounds),
                scores=await self._connection.fetch(_SCORES, *bounds),
                rejections=await self._connection.fetch(_REJECTIONS, *bounds),
                left_out_patients=await self._connection.fetchval(_LEFT_OUT, *bounds),
            )


# A role finds its tables by the search path, which usually begins with the schema of the role's own name.
_TAKEN = """
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1::text) AS there,
       (SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1::text) AS mark,
       $1::text = 'public' OR EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)
       OR $1::text = ANY(string_to_array(translate(current_setting('search_path'), '" ', ''), ',')) AS searched
"""

_PROGRESS = "SELECT topic_id, source_partition, next_offset FROM stream_progress WHERE institution = $1"

# What two scores of the same event and encounter have in common if they are the same: first what was to be scored,
# then what the model made of it. Times as numbers, since their text depends on the session.
_COMPARED = """
record_id, superseded_by, patient_pseudonym, encounter_pseudonym, received_at, source_partition, source_offset,
model_version, status, probability, band,
md5(ROW(encounter_version, status, inpatient, extract(epoch FROM as_of), features, feature_set, reason)::text)::uuid
    AS basis,
md5(ROW(probability, band, baseline, contributions)::text)::uuid AS numbers
"""

_ISSUES = """
(SELECT coalesce(jsonb_agg(issue ORDER BY place), '[]')
 FROM jsonb_array_elements(issues) WITH ORDINALITY AS listed(issue, place)
 WHERE issue->>'reason' <> ALL({ignored})) AS issues
"""

_NOT_KNOWN_BEFORE = "WHERE patient_pseudonym NOT IN (SELECT patient_pseudonym FROM {schema}.known_before)"

_TABLES = (
    """CREATE TABLE {schema}.live_scores (
           record_id uuid, superseded_by uuid, patient_pseudonym uuid, encounter_pseudonym uuid,
           received_at timestamptz, source_partition integer, source_offset bigint, model_version text, status text,
           probability double precision, band text, basis uuid, numbers uuid)""",
    """CREATE TABLE {schema}.live_rejected (
           source_partition integer, source_offset bigint, received_at timestamptz, issues jsonb)""",
    "CREATE TABLE {schema}.known_before (patient_pseudonym uuid PRIMARY KEY)",
    "CREATE TABLE {schema}.ignored_reasons (reason text)",
    f"CREATE VIEW {{schema}}.replayed_scores AS SELECT {_COMPARED} FROM {{schema}}.risk_scores",
    f"CREATE VIEW {{schema}}.compared_live AS SELECT * FROM {{schema}}.live_scores {_NOT_KNOWN_BEFORE}",
    f"CREATE VIEW {{schema}}.compared_replayed AS SELECT * FROM {{schema}}.replayed_scores {_NOT_KNOWN_BEFORE}",
    f"""CREATE VIEW {{schema}}.replayed_rejected AS
        SELECT source_partition, source_offset, received_at,
               {_ISSUES.format(ignored="ARRAY(SELECT reason FROM {schema}.ignored_reasons)")}
        FROM {{schema}}.rejected_events""",
)

_HELD = "unnest($3::int[], $4::bigint[]) AS held(source_partition, first_offset) USING (source_partition)"

_NOTE_KNOWN_BEFORE = f"""
INSERT INTO {{schema}}.known_before SELECT DISTINCT patient_pseudonym FROM risk_scores LEFT JOIN {_HELD}
WHERE institution = $1 AND (topic_id <> $2 OR first_offset IS NULL OR source_offset < first_offset)
"""

_NOTE_SCORES = f"""
INSERT INTO {{schema}}.live_scores SELECT {_COMPARED} FROM risk_scores JOIN {_HELD}
WHERE institution = $1 AND topic_id = $2 AND source_offset >= first_offset
"""

_NOTE_REJECTED = f"""
INSERT INTO {{schema}}.live_rejected
SELECT source_partition, source_offset, received_at, {_ISSUES.format(ignored="$5::text[]")} FROM rejected_events
JOIN {_HELD} WHERE institution = $1 AND topic_id = $2 AND source_offset >= first_offset
"""

# The score that stood at the window's end, of each encounter that either side scored within the window.
_STANDING = """
SELECT DISTINCT ON (encounter_pseudonym) * FROM {table} AS one
WHERE ($2::timestamptz IS NULL OR received_at < $2) AND status <> 'entered-in-error'
  AND NOT EXISTS (SELECT FROM {table} AS later WHERE later.record_id = one.superseded_by
                  AND ($2::timestamptz IS NULL OR later.received_at < $2))
ORDER BY encounter_pseudonym, received_at DESC, source_partition, source_offset DESC
"""
_WITHIN = "received_at >= $1 AND ($2::timestamptz IS NULL OR received_at < $2)"
_STOOD = f"""
WITH live AS MATERIALIZED ({_STANDING.format(table="compared_live")}),
     replayed AS MATERIALIZED ({_STANDING.format(table="compared_replayed")}),
     stood AS (
         SELECT encounter_pseudonym, live.probability AS was, replayed.probability AS would_be,
                live.band AS from_band, replayed.band AS to_band,
                live.model_version AS scored_by, replayed.model_version AS replayed_by
         FROM (SELECT encounter_pseudonym FROM compared_live WHERE {_WITHIN}
               UNION SELECT encounter_pseudonym FROM compared_replayed WHERE {_WITHIN}) AS within
         LEFT JOIN live USING (encounter_pseudonym) LEFT JOIN replayed USING (encounter_pseudonym)
         WHERE live.record_id IS NOT NULL OR replayed.record_id IS NOT NULL)
"""

_ENCOUNTERS = f"""{_STOOD}
SELECT from_band, to_band, scored_by, replayed_by, was IS DISTINCT FROM would_be AS differs, count(*) AS number
FROM stood GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""

_EXAMPLES = f"""{_STOOD}
SELECT from_band, to_band, encounter_pseudonym::text, was, would_be FROM (
    SELECT *, row_number() OVER (PARTITION BY from_band, to_band ORDER BY encounter_pseudonym) AS place
    FROM stood WHERE from_band IS DISTINCT FROM to_band) AS numbered
WHERE place <= 3 ORDER BY from_band, to_band, place
"""

# The order of a patient's events in different partitions is nobody's: who has such is told apart.
_SCORES = f"""
WITH spread AS (
    SELECT patient_pseudonym
    FROM (SELECT patient_pseudonym, source_partition FROM compared_live
          UNION SELECT patient_pseudonym, source_partition FROM compared_replayed) AS both_sides
    GROUP BY 1 HAVING count(*) > 1)
SELECT live.model_version AS scored_by, replayed.model_version AS replayed_by,
       CASE WHEN replayed.record_id IS NULL THEN 'gone' WHEN live.record_id IS NULL THEN 'new'
            WHEN live.basis <> replayed.basis THEN 'other-facts'
            WHEN live.numbers <> replayed.numbers THEN 'other-numbers' ELSE 'equal' END AS found,
       EXISTS (SELECT FROM spread WHERE spread.patient_pseudonym
               = coalesce(live.patient_pseudonym, replayed.patient_pseudonym)) AS spread,
       count(*) AS number
FROM (SELECT * FROM compared_live WHERE {_WITHIN}) AS live
FULL JOIN (SELECT * FROM compared_replayed WHERE {_WITHIN}) AS replayed
    USING (source_partition, source_offset, encounter_pseudonym)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""

_REJECTIONS = f"""
SELECT live.issues->0->>'reason' AS from_reason, replayed.issues->0->>'reason' AS to_reason,
       live.issues IS DISTINCT FROM replayed.issues AS differs, count(*) AS number
FROM (SELECT * FROM live_rejected WHERE {_WITHIN} AND issues <> '[]') AS live
FULL JOIN (SELECT * FROM replayed_rejected WHERE {_WITHIN} AND issues <> '[]') AS replayed
    USING (source_partition, source_offset)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

_LEFT_OUT = f"""
SELECT count(DISTINCT patient_pseudonym) FROM known_before
JOIN (SELECT patient_pseudonym, received_at FROM live_scores
      UNION ALL SELECT patient_pseudonym, received_at FROM replayed_scores) AS both_sides USING (patient_pseudonym)
WHERE {_WITHIN}
"""
