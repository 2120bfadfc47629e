"""How long the queries of docs/analysts.md take over millions of made-up scores, on a PostgreSQL of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from connectors.migrate import migrate
from connectors.roles import ANALYST, institution_role
from connectors.settings import Settings, load_settings
from healthalliance import local_stack
from schemas.features import FEATURE_NAMES
from schemas.institutions import institutions
from tests.analyst_queries import Query, queries

LIMIT_S = 1.0
_SCORES = 5_000_000
_MONTHS = 36
_TRIES = 3
_READER = "analyst_of_all_institutions"

out = Console()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a query took, the median of three tries that follow a first one; rows: how many it returned."""

    query: str
    seconds: float
    rows: int


def costs(data_dir: Path, scores: int = _SCORES) -> dict[str, Any]:
    """Fill a database with so many scores and time each query of the page."""
    with _postgres_alone(data_dir) as settings:
        started = time.monotonic()
        asyncio.run(fill(settings.database_url, scores))
        filled_s = time.monotonic() - started
        timings = asyncio.run(_timed(settings.database_url, queries()))
    return {"scores": scores, "filled_s": filled_s, "queries": [asdict(one) for one in timings]}


def show(found: Mapping[str, Any]) -> None:
    """Print each query's time beside its limit, and mark those above it."""
    table = Table("query", "rows", "ms", "target", "", title=f"Analysts' queries over {found['scores']:,} scores")
    for one in found["queries"]:
        table.add_row(
            one["query"],
            f"{one['rows']:,}",
            f"{1000 * one['seconds']:.0f}",
            f"≤ {1000 * LIMIT_S:.0f}",
            "too slow" if one["seconds"] > LIMIT_S else "" if one["rows"] else "nothing was found",
        )
    out.print(table)


@contextmanager
def _postgres_alone(data_dir: Path) -> Iterator[Settings]:
    """Start the local stack's PostgreSQL without its other parts, empty and migrated."""
    unused = {"kafka_bootstrap_servers": "unused:1", "schema_registry_url": "http://unused", "mlflow_tracking_uri": "x"}
    settings = local_stack.apart(load_settings(), data_dir).model_copy(update=unused)
    local_stack.down(settings)
    shutil.rmtree(data_dir, ignore_errors=True)
    running = local_stack.up(settings, lambda text: out.print(text, highlight=False))
    try:
        migrate(running.database_url)
        yield running
    finally:
        local_stack.down(settings)


async def fill(database_url: str, scores: int) -> None:
    """Make up three years of encounters that end now, with some five scores for every three of them."""
    connection = await asyncpg.connect(database_url, command_timeout=3600)
    try:
        await connection.execute(
            f"SELECT ensure_risk_score_partitions((now() - {_MONTHS} * interval '1 month')::date, {_MONTHS} + 3)"
        )
        indexes = await connection.fetch(_SECONDARY_INDEXES)
        for one in indexes:
            await connection.execute(f"DROP INDEX {one['name']}")
        for statement in _FILL:
            await connection.execute(statement.format(encounters=scores * 3 // 5, months=_MONTHS))
        for one in indexes:
            await connection.execute(one["definition"].replace(" ON ONLY ", " ON "))  # of partitions too
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def _timed(database_url: str, asked: list[Query]) -> list[Timing]:
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        roles = ", ".join([ANALYST, *map(institution_role, institutions())])
        await connection.execute(f"CREATE ROLE {_READER} IN ROLE {roles}")
        await connection.execute(f"SET ROLE {_READER}")
        timings = []
        for one in asked:
            rows = len(await connection.fetch(one.sql))
            taken = []
            for _ in range(_TRIES):
                started = time.monotonic()
                await connection.fetch(one.sql)
                taken.append(time.monotonic() - started)
            timings.append(Timing(one.title, statistics.median(taken), rows))
        return timings
    finally:
        await connection.close()


# Those that stand for no constraint, of partitioned tables only once.
_SECONDARY_INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = 'public'::regnamespace AND NOT indisunique AND NOT relispartition
"""

_INSTITUTION = f"(ARRAY[{', '.join(repr(id_) for id_ in institutions())}])[i / 3 % {len(institutions())} + 1]"
_VALUES = "jsonb_build_object(" + ", ".join(f"'{name}', {{{name}}}" for name in FEATURE_NAMES) + ")"
_FEATURES = _VALUES.format(
    age_years="18 + i % 75",
    gender_encoded="i % 2",
    num_conditions="i % 12",
    num_medications="i % 17",
    recent_encounters="i % 9",
    prior_inpatient_stays_365d="i % 5",
    prior_emergency_visits_180d="i % 4",
    length_of_stay_days="round((i % 100 / 7.0)::numeric, 2)",
    emergency_admission="i % 3 / 2",
)
_CONTRIBUTIONS = _VALUES.format(**{
    name: f"round((chance * (i % {7 + place} - 3) / 40)::numeric, 6)" for place, name in enumerate(FEATURE_NAMES)
})  # fmt: skip

# Encounter i arrives in its turn; every third one is scored three times, the last of which stands.
_FILL = (
    "SELECT setseed(0.5)",
    f"""
INSERT INTO risk_scores
SELECT md5('r' || i || '-' || k)::uuid, {_INSTITUTION}, md5('p' || i / 4)::uuid, md5('e' || i)::uuid,
       'version_id:' || k, CASE k WHEN 1 THEN 'final' ELSE 'amended' END, i % 4 = 0, at, at, at + interval '40 ms',
       chance, CASE WHEN chance > 0.3 THEN 'high' WHEN chance > 0.15 THEN 'medium' ELSE 'low' END, 0.12,
       {_CONTRIBUTIONS}, {_FEATURES}, 1, 'readmission-risk', (1 + 4 * i / {{encounters}})::text, repeat('ab', 32),
       CASE WHEN k > 1 THEN md5('r' || i || '-' || k - 1)::uuid END,
       CASE WHEN k > 1 THEN 'encounter-updated' END,
       md5({_INSTITUTION})::uuid, i % 4, i * 3 + k,
       CASE WHEN k < last THEN md5('r' || i || '-' || k + 1)::uuid END,
       CASE WHEN k < last THEN at + interval '1 day' END
FROM (SELECT i, k, last, power(random(), 2.2) * 0.7 AS chance,
             now() - {{months}} * interval '1 month' * (1 - i::float8 / {{encounters}})
             - (last - k) * interval '1 day' AS at
      FROM generate_series(0::bigint, {{encounters}} - 1) AS i
      CROSS JOIN LATERAL (SELECT CASE i % 3 WHEN 2 THEN 3 ELSE 1 END AS last) AS versions
      CROSS JOIN LATERAL generate_series(1, last) AS k) AS made""",
    """
INSERT INTO score_outcomes
SELECT institution, encounter_pseudonym, patient_pseudonym, as_of,
       CASE WHEN random() < 0.08 THEN 'censored' WHEN random() < probability THEN 'readmitted' ELSE 'pending' END,
       NULL, NULL, record_id, received_at, scored_at
FROM risk_scores WHERE inpatient AND superseded_by IS NULL""",
    """
INSERT INTO challenger_scores
SELECT record_id, institution, patient_pseudonym, encounter_pseudonym, received_at, scored_at,
       least(1, probability * (0.8 + 0.4 * random())), band, model_name, '9', model_digest
FROM risk_scores WHERE received_at > now() - interval '120 days'""",
    """
INSERT INTO stream_progress
SELECT md5(institution)::uuid, part, 'encounters.' || institution, institution, max(source_offset) + 1,
       count(*), count(*) / 5, count(*) / 20, 0, count(*) / 100, now(), max(received_at)
FROM risk_scores CROSS JOIN LATERAL (SELECT source_partition AS part) AS of GROUP BY institution, part""",
    """
INSERT INTO rejected_events
SELECT topic_id, source_partition, source_offset, institution, received_at, scored_at,
       (ARRAY['structure', 'missing-class', 'subject-missing'])[1 + source_offset % 3], '[]'
FROM risk_scores WHERE source_offset % 101 = 1 AND supersedes IS NULL""",
    f"""
INSERT INTO feature_drift_readings
SELECT institution, feature, 'readmission-risk', '4', day, day, 2000, random() * 0.3
FROM unnest(ARRAY[{", ".join(repr(id_) for id_ in institutions())}]) AS institution,
     unnest(ARRAY[{", ".join(repr(name) for name in FEATURE_NAMES)}]) AS feature,
     generate_series(now() - interval '1 year', now(), interval '1 day') AS day""",
)


if __name__ == "__main__":
    size = int(sys.argv[1]) if sys.argv[1:] else int(os.environ.get("SCORES", _SCORES))
    show(costs(Path(".local/bench-analysts"), size))
