"""PostgreSQL on the hot path: one transaction a batch, with few round trips."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import orjson
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from connectors.pseudonym_keys import KeyPair, keys_in_force
from connectors.settings import Settings
from connectors.tables import challenger_scores, rejected_events, risk_scores
from schemas.challenger import ChallengerScore
from schemas.drift import Reading
from schemas.errors import ConfigurationError, FencedError, UnavailableError
from schemas.features import UNKNOWN
from schemas.messages import RiskScore
from schemas.readmission import OutcomeChange, StayOutcome
from schemas.rejection import Issue

# What asyncpg raises when the server is away, shuts down, starts or has no room for one more.
AWAY = (
    OSError,  # a TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # its state machine, when a connection ends in the midst of a statement
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def unanswered(error: Exception) -> UnavailableError:
    """Say that the database is away; the error's kind alone, since its text may hold an address."""
    return UnavailableError(f"PostgreSQL at DATABASE_URL does not answer ({type(error).__name__}).")


# What a retry may find good again.
TRANSIENT = (
    *AWAY,
    asyncpg.TransactionRollbackError,
    asyncpg.UniqueViolationError,  # two workers met a new patient at once; the second finds it known
)

# The tables that an erased patient leaves at once. The scores come first: alerting locks a score while it writes of it,
# so that nothing of the patient is written after the later ones were emptied.
ERASED_TABLES = ("risk_scores", "challenger_scores", "worklist_marks", "cds_cards", "alert_standings", "alerts")

# Tables with an index of encounters and none of patients.
FOUND_BY_ENCOUNTER = frozenset({"risk_scores", "score_outcomes", "patient_encounters"})


def rows_of_patient(table: str) -> str:
    """Write the condition for a patient's rows: $1 institution, $2 pseudonym, $3 encounters where they are needed."""
    patient = "institution = $1 AND patient_pseudonym = $2"
    return f"{patient} AND encounter_pseudonym = ANY($3::uuid[])" if table in FOUND_BY_ENCOUNTER else patient


_NOT_STORED = frozenset({"patient_reference", "encounter_reference"})
SCORE_COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(RiskScore) if f.name not in _NOT_STORED)
_UUID_COLUMNS = frozenset({"record_id", "patient_pseudonym", "encounter_pseudonym", "supersedes", "topic_id"})


class Partition(NamedTuple):
    """A topic's partition, by the topic's id: a topic made anew under an old name is another one."""

    topic_id: str
    topic: str
    institution: str
    number: int


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """A patient's sealed history and how many batches have changed it."""

    revision: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a partition has been applied now, and how many of its events ended in which way.

    known_until: the latest time that they told of, None where they told of none.
    """

    partition: Partition
    next_offset: int
    outcomes: Mapping[str, int]
    known_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A rejected event's coordinates and issues."""

    topic_id: str
    partition: int
    offset: int
    institution: str
    received_at: datetime
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class Writes:
    """All that one batch changes. Histories are (institution, patient pseudonym) → (revision before, sealed)."""

    now: datetime
    advances: Sequence[Advance]
    histories: Mapping[tuple[str, str], tuple[int, bytes]]
    patient_of: Mapping[tuple[str, str], str | None]
    scores: Sequence[RiskScore]
    superseded: Sequence[tuple[str, datetime, str]]  # record, its received_at, the record that replaces it
    rejected: Sequence[RejectedRow]
    erased: Mapping[tuple[str, str], Sequence[str]]  # the encounters' pseudonyms by the patient's
    stay_outcomes: Mapping[tuple[str, str], OutcomeChange]  # by institution and encounter pseudonym
    challenger_scores: Sequence[ChallengerScore]


class Batch:
    """An open transaction: read with `lock_progress` and `load_…`, write once with `write`."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def lock_progress(self, first_offsets: Mapping[Partition, int], now: datetime) -> dict[Partition, int]:
        """Lock the partitions' progress rows and return each next offset; a new partition starts at the given one.

        The row of a new partition is made before it is locked, so that two workers cannot both be its first.
        """
        ordered = sorted(first_offsets, key=lambda one: (one.topic_id, one.number))
        numbers = [one.topic_id for one in ordered], [one.number for one in ordered]
        rows = await self._connection.fetch(_LOCK_PROGRESS, *numbers)
        if len(rows) < len(ordered):
            await self._connection.execute(
                """INSERT INTO stream_progress
                       (topic_id, source_partition, topic, institution, next_offset, updated_at)
                   SELECT *, $6 FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::bigint[])
                   ON CONFLICT DO NOTHING""",
                *numbers,
                [one.topic for one in ordered],
                [one.institution for one in ordered],
                [first_offsets[one] for one in ordered],
                now,
            )
            rows = await self._connection.fetch(_LOCK_PROGRESS, *numbers)
        found = {(str(row["topic_id"]), row["source_partition"]): row["next_offset"] for row in rows}
        return {one: found[one.topic_id, one.number] for one in ordered}

    async def require_keys(self, used: Mapping[str, str]) -> None:
        """Raise FencedError where an institution's pseudonyms are made with another key than the one used (its id).

        Until the transaction ends no rotation can begin: it waits for this lock on the table.
        """
        rows = await self._connection.fetch("SELECT institution, key_id, replaces FROM pseudonym_keys")
        for row in rows:
            other = used.get(row["institution"], row["key_id"]) != row["key_id"]
            if other or (row["replaces"] is not None and row["institution"] in used):
                raise FencedError(f"The key of {row['institution']}'s pseudonyms is being rotated; starting again.")

    async def load_histories(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], StoredHistory]:
        """Lock and return the histories of (institution, patient pseudonym) that exist."""
        ordered = sorted(keys)
        rows = await self._connection.fetch(
            """SELECT institution, patient_pseudonym, revision, history FROM patient_history
               JOIN unnest($1::text[], $2::uuid[]) AS wanted(institution, patient_pseudonym)
               USING (institution, patient_pseudonym)
               ORDER BY institution, patient_pseudonym FOR UPDATE OF patient_history""",
            [institution for institution, _ in ordered],
            [pseudonym for _, pseudonym in ordered],
        )
        return {
            (row["institution"], str(row["patient_pseudonym"])): StoredHistory(row["revision"], row["history"])
            for row in rows
        }

    async def load_patients_of(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
        """Return whose the encounters (institution, encounter pseudonym) are, as far as they are known."""
        ordered = sorted(keys)
        rows = await self._connection.fetch(
            """SELECT institution, encounter_pseudonym, patient_pseudonym FROM patient_encounters
               JOIN unnest($1::text[], $2::uuid[]) AS wanted(institution, encounter_pseudonym)
               USING (institution, encounter_pseudonym)""",
            [institution for institution, _ in ordered],
            [pseudonym for _, pseudonym in ordered],
        )
        return {(row["institution"], str(row["encounter_pseudonym"])): _text(row["patient_pseudonym"]) for row in rows}

    async def load_results(
        self, partition: Partition, first: int, last: int | None = None, patients: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the scores that events first..last (inclusive) of a partition have caused, in offset order.

        Without a last all that came since, of patients by pseudonym only theirs.
        """
        rows = await self._connection.fetch(
            f"""SELECT {", ".join(SCORE_COLUMNS)} FROM risk_scores
                WHERE topic_id = $1 AND source_partition = $2
                AND source_offset BETWEEN $3 AND coalesce($4, 9223372036854775807)
                AND ($5::uuid[] IS NULL OR patient_pseudonym = ANY($5))
                ORDER BY source_offset, scored_at""",
            partition.topic_id,
            partition.number,
            first,
            last,
            None if patients is None else list(patients),
        )
        return [score_values(row) for row in rows]

    async def load_rejected(self, partition: Partition, first: int, last: int) -> dict[int, list[dict[str, str]]]:
        """Return the issues of the rejected events first..last (inclusive) of a partition, by offset."""
        rows = await self._connection.fetch(
            """SELECT source_offset, issues FROM rejected_events
               WHERE topic_id = $1 AND source_partition = $2 AND source_offset BETWEEN $3 AND $4""",
            partition.topic_id,
            partition.number,
            first,
            last,
        )
        return {row["source_offset"]: json.loads(row["issues"]) for row in rows}

    async def write(self, writes: Writes) -> None:
        """Write all that the batch changes."""
        await self._write_histories(writes)
        await self._write_patients_of(writes)
        # First, so that the scores of a patient whose events go on after the erasure stay.
        await self._erase(writes)
        await self._write_scores(writes)
        await self._write_challenger_scores(writes)
        await self._write_outcomes(writes)
        await self._write_rejected(writes)
        await self._advance(writes.advances, writes.now)

    async def _write_histories(self, writes: Writes) -> None:
        new = [(*key, sealed) for key, (revision, sealed) in writes.histories.items() if revision == 0]
        old = [(*key, revision, sealed) for key, (revision, sealed) in writes.histories.items() if revision > 0]
        if new:
            await self._connection.execute(
                """INSERT INTO patient_history (institution, patient_pseudonym, revision, history, updated_at)
                   SELECT institution, pseudonym, 1, history, $4
                   FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS new(institution, pseudonym, history)""",
                *map(list, zip(*new, strict=True)),
                writes.now,
            )
        if old:
            status = await self._connection.execute(
                """UPDATE patient_history AS held
                   SET revision = new.revision + 1, history = new.history, updated_at = $5
                   FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::bytea[])
                       AS new(institution, pseudonym, revision, history)
                   WHERE held.institution = new.institution AND held.patient_pseudonym = new.pseudonym
                     AND held.revision = new.revision""",
                *map(list, zip(*old, strict=True)),
                writes.now,
            )
            _require_count(status, len(old))

    async def _write_patients_of(self, writes: Writes) -> None:
        if writes.patient_of:
            await self._connection.execute(
                """INSERT INTO patient_encounters (institution, encounter_pseudonym, patient_pseudonym)
                   SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[])
                   ON CONFLICT (institution, encounter_pseudonym)
                   DO UPDATE SET patient_pseudonym = coalesce(excluded.patient_pseudonym,
                                                              patient_encounters.patient_pseudonym)""",
                [institution for institution, _ in writes.patient_of],
                [pseudonym for _, pseudonym in writes.patient_of],
                list(writes.patient_of.values()),
            )

    async def _erase(self, writes: Writes) -> None:
        for (institution, pseudonym), encounters in writes.erased.items():
            for table in ERASED_TABLES:
                found = (institution, pseudonym, *([encounters] if table in FOUND_BY_ENCOUNTER else ()))
                await self._connection.execute(f"DELETE FROM {table} WHERE {rows_of_patient(table)}", *found)

    async def _write_scores(self, writes: Writes) -> None:
        if writes.scores:
            await self._insert(risk_scores, SCORE_COLUMNS, [_score_row(score) for score in writes.scores])
        if writes.superseded:
            await self._connection.execute(
                """UPDATE risk_scores AS old SET superseded_by = new.record, superseded_at = $4
                   FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) AS new(old_record, received_at, record)
                   WHERE old.record_id = new.old_record AND old.received_at = new.received_at""",
                *map(list, zip(*writes.superseded, strict=True)),
                writes.now,
            )

    async def _write_challenger_scores(self, writes: Writes) -> None:
        if writes.challenger_scores:
            rows = [msgspec.structs.astuple(one) for one in writes.challenger_scores]
            await self._insert(challenger_scores, ChallengerScore.__struct_fields__, rows)

    async def _write_outcomes(self, writes: Writes) -> None:
        changes = sorted(writes.stay_outcomes.items())
        if gone := [key for key, one in changes if one.row is None]:
            await self._connection.execute(_DELETE_OUTCOMES, *map(list, zip(*gone, strict=True)))
        for statement, is_new in ((_INSERT_OUTCOMES, True), (_UPDATE_OUTCOMES, False)):
            rows = [msgspec.structs.astuple(one.row) for _, one in changes if one.row and one.is_new is is_new]
            if rows:
                await self._connection.execute(statement, *map(list, zip(*rows, strict=True)), writes.now)

    async def _write_rejected(self, writes: Writes) -> None:
        if writes.rejected:
            rows = [
                (
                    one.topic_id,
                    one.partition,
                    one.offset,
                    one.institution,
                    one.received_at,
                    writes.now,
                    str(one.issues[0].reason),
                    json.dumps([{"reason": issue.reason, "path": issue.shared_path} for issue in one.issues]),
                )
                for one in writes.rejected
            ]
            await self._insert(rejected_events, _REJECTED_COLUMNS, rows)

    async def _insert(self, table: Table, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows at once; COPY is refused where row-level security holds for the login."""
        await self._connection.execute(_insertion(table, tuple(columns)), *map(list, zip(*rows, strict=True)))

    async def _advance(self, advances: Sequence[Advance], now: datetime) -> None:
        await self._connection.execute(
            """UPDATE stream_progress AS held SET
                   next_offset = new.next_offset,
                   scored = held.scored + new.scored,
                   updated = held.updated + new.updated,
                   unchanged = held.unchanged + new.unchanged,
                   retracted = held.retracted + new.retracted,
                   rejected = held.rejected + new.rejected,
                   known_until = greatest(held.known_until, new.known_until),
                   updated_at = $10
               FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                           $7::bigint[], $8::bigint[], $9::timestamptz[])
                   AS new(topic_id, partition, next_offset, scored, updated, unchanged, retracted, rejected,
                          known_until)
               WHERE held.topic_id = new.topic_id AND held.source_partition = new.partition""",
            [one.partition.topic_id for one in advances],
            [one.partition.number for one in advances],
            [one.next_offset for one in advances],
            *([one.outcomes.get(outcome, 0) for one in advances] for outcome in _OUTCOMES),
            [one.known_until for one in advances],
            now,
        )


@cache
def _insertion(table: Table, columns: tuple[str, ...]) -> str:
    types = (table.columns[name].type.compile(dialect=_DIALECT) for name in columns)
    arrays = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_REJECTED_COLUMNS = (
    "topic_id",
    "source_partition",
    "source_offset",
    "institution",
    "received_at",
    "rejected_at",
    "reason",
    "issues",
)
_OUTCOMES = ("scored", "updated", "unchanged", "retracted", "rejected")

_OUTCOME_COLUMNS = ", ".join(StayOutcome.__struct_fields__)
_NEW_OUTCOMES = f"""
unnest($1::text[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::timestamptz[], $8::uuid[],
       $9::timestamptz[]) AS new({_OUTCOME_COLUMNS})
"""
# A row that is there already is another patient's or one that was taken away earlier in the batch.
_INSERT_OUTCOMES = f"""
INSERT INTO score_outcomes ({_OUTCOME_COLUMNS}, updated_at)
SELECT {_OUTCOME_COLUMNS}, $10::timestamptz FROM {_NEW_OUTCOMES}
ON CONFLICT (institution, encounter_pseudonym) DO UPDATE SET
    patient_pseudonym = excluded.patient_pseudonym, discharged_at = excluded.discharged_at,
    outcome = excluded.outcome, because = excluded.because, readmitted_at = excluded.readmitted_at,
    record_id = excluded.record_id, received_at = excluded.received_at, updated_at = excluded.updated_at
"""
# The score that stood at a discharge stays the one, unless the discharge was at another time after all.
_UPDATE_OUTCOMES = f"""
UPDATE score_outcomes AS held SET
    discharged_at = new.discharged_at, outcome = new.outcome, because = new.because,
    readmitted_at = new.readmitted_at, updated_at = $10,
    record_id = CASE held.discharged_at WHEN new.discharged_at THEN held.record_id ELSE new.record_id END,
    received_at = CASE held.discharged_at WHEN new.discharged_at THEN held.received_at ELSE new.received_at END
FROM {_NEW_OUTCOMES}
WHERE held.institution = new.institution AND held.encounter_pseudonym = new.encounter_pseudonym
"""
_DELETE_OUTCOMES = """
DELETE FROM score_outcomes AS held USING unnest($1::text[], $2::uuid[]) AS gone(institution, encounter_pseudonym)
WHERE held.institution = gone.institution AND held.encounter_pseudonym = gone.encounter_pseudonym
"""

_LOCK_PROGRESS = """
SELECT topic_id, source_partition, next_offset FROM stream_progress
JOIN unnest($1::uuid[], $2::int[]) AS wanted(topic_id, source_partition) USING (topic_id, source_partition)
ORDER BY topic_id, source_partition FOR UPDATE OF stream_progress
"""


_COUNT_FEATURES = """
WITH last AS (
    SELECT record_id, received_at FROM score_outcomes
    WHERE institution = $1 AND outcome <> 'censored' AND record_id IS NOT NULL
    ORDER BY discharged_at DESC LIMIT $2)
SELECT name, width_bucket(coalesce((features->>name)::real, $5::real)::double precision, edges::double precision[])
       AS bin, count(*) AS number
FROM last JOIN risk_scores USING (record_id, received_at)
CROSS JOIN unnest($3::text[], $4::text[]) AS binned(name, edges)
WHERE features IS NOT NULL
GROUP BY 1, 2
"""

_NOTE_DRIFT = """
INSERT INTO feature_drift_readings AS held
SELECT institution, feature, $1, $2, (now() AT TIME ZONE 'UTC')::date, now(), stays, psi
FROM unnest($3::text[], $4::text[], $5::int[], $6::double precision[]) AS new(institution, feature, stays, psi)
ON CONFLICT (institution, feature, model_name, model_version, day) DO UPDATE SET
    measured_at = excluded.measured_at, stays = excluded.stays, psi = excluded.psi
"""


class Store:
    """A worker's connections to PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Open a batch's transaction: committed at the end of the block, rolled back if it raises."""
        # The time-out bounds its return to the pool too, which waits for a statement that is being cancelled.
        async with self._pool.acquire(timeout=_ANSWER_S) as connection, connection.transaction():
            yield Batch(connection)

    async def ensure_partitions(self) -> None:
        """Make the month partitions of now and the next two months where they are missing."""
        await self._pool.execute("SELECT ensure_risk_score_partitions(current_date, 3)")

    async def has_scores(self) -> bool:
        """Tell whether anything was ever scored."""
        return bool(await self._pool.fetchval("SELECT EXISTS (SELECT FROM risk_scores)"))

    async def model_performance(self) -> list[Mapping[str, Any]]:
        """Return the view `model_performance_exact`: a row for each institution, model and role."""
        return list(
            await self._pool.fetch("SELECT * FROM model_performance_exact ORDER BY institution, model_version, role")
        )

    async def note_drift(self, model_name: str, model_version: str, readings: Iterable[Reading]) -> None:
        """Keep the day's last reading of each institution and feature."""
        # In one order, since other workers write the same rows.
        rows = sorted(map(msgspec.structs.astuple, readings))
        await self._pool.execute(_NOTE_DRIFT, model_name, model_version, *map(list, zip(*rows, strict=True)))

    async def count_features(
        self, institution: str, edges: Mapping[str, Sequence[float]], stays: int
    ) -> dict[str, list[int]]:
        """Count the features of the last discharged stays, as scored at their discharge, into the bins of each.

        Counted are the stays that a model may learn from, `stays` of them at most.
        """
        counted = {name: [0] * (len(cuts) + 1) for name, cuts in edges.items()}
        texts = ["{" + ",".join(map(repr, cuts)) + "}" for cuts in edges.values()]
        for row in await self._pool.fetch(_COUNT_FEATURES, institution, stays, list(edges), texts, UNKNOWN):
            counted[row["name"]][row["bin"]] = row["number"]
        return counted

    async def keys_in_force(self, settings: Settings, institution_ids: Iterable[str]) -> dict[str, KeyPair]:
        """Return the institutions' keys as `connectors.pseudonym_keys` does, and note those that are not noted."""
        async with self._pool.acquire() as connection, connection.transaction():
            return await keys_in_force(connection, settings, institution_ids, note=True)

    async def stopped_intakes(self) -> set[str]:
        """List the institutions whose intake is stopped."""
        rows = await self._pool.fetch("SELECT institution FROM intake_stops")
        return {row["institution"] for row in rows}

    async def stop_intake(self, institution: str, share: float) -> None:
        """Stop an institution's intake for all workers until it is resumed."""
        await self._pool.execute(
            "INSERT INTO intake_stops VALUES ($1, now(), $2) ON CONFLICT DO NOTHING", institution, share
        )

    async def resume_intake(self, institution: str) -> bool:
        """Resume an institution's intake; return whether it was stopped."""
        status = await self._pool.execute("DELETE FROM intake_stops WHERE institution = $1", institution)
        return bool(status != "DELETE 0")

    async def is_up(self) -> bool:
        """Tell whether the database answers."""
        try:
            return bool(await self._pool.fetchval("SELECT 1"))
        except TRANSIENT:
            return False

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


_ANSWER_S = 30.0

# The rows that a frozen, unplugged or cut-off worker has locked are free again after this long: whoever has its
# partitions now waits for them. Between two statements of a batch lie milliseconds.
_SESSION = {
    "idle_in_transaction_session_timeout": "20s",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


async def connect(database_url: str, schema: str | None = None) -> Store:
    """Connect, to the tables of another `schema` if one is named; raise UnavailableError where there is no answer."""
    session = {**_SESSION, **({"search_path": f'"{schema}"'} if schema else {})}
    return Store(await open_pool(database_url, connections=4, session=session))


async def open_pool(
    database_url: str,
    *,
    connections: int,
    session: Mapping[str, str],
    timeout_s: float = 10.0,
    answer_s: float = _ANSWER_S,
) -> asyncpg.Pool[Any]:
    """Connect, with settings of the sessions; raise UnavailableError where there is no answer.

    timeout_s, answer_s: how long connecting and a statement may take. Raises ConfigurationError where the login may
    not take the role that the settings name.
    """
    try:
        return await asyncpg.create_pool(
            database_url,
            min_size=1,
            max_size=connections,
            timeout=timeout_s,
            command_timeout=answer_s,
            server_settings={"tcp_keepalives_idle": "10", **session},
        )
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigurationError(
            f"The login of DATABASE_URL may not take the role {session.get('role')}: see docs/operations.md, roles."
        ) from error
    except (*AWAY, asyncpg.PostgresError) as error:
        raise unanswered(error) from error


def _score_row(score: RiskScore) -> tuple[object, ...]:
    values = vars(score)
    return tuple(
        orjson.dumps(vars(values[name])).decode()
        if name == "features" and values[name] is not None
        else orjson.dumps(values[name]).decode()
        if name == "contributions"
        else values[name]
        for name in SCORE_COLUMNS
    )


def score_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the columns of a row of `risk_scores` as a `RiskScore` holds them; `features` as a mapping."""
    values: dict[str, Any] = {name: _text(row[name]) if name in _UUID_COLUMNS else row[name] for name in SCORE_COLUMNS}
    values["contributions"] = json.loads(values["contributions"])
    values["features"] = json.loads(values["features"]) if values["features"] else None
    return values


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _require_count(status: str, expected: int) -> None:
    if int(status.rpartition(" ")[2]) != expected:
        raise FencedError("A patient's history was changed by another worker meanwhile.")
