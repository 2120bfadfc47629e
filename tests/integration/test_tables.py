"""The tables as declared, as migrated and as the records have them; the views' numbers; versions that are kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from connectors import migrate as migration
from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from connectors.store import SCORE_COLUMNS
from connectors.tables import metadata
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.features import FEATURE_NAMES
from schemas.messages import RiskScore
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import run
from tests.integration.reading import latest_risk, rows_of_encounters
from tests.integration.running import Trained, database
from tests.unit.schemas.fhir_events import condition, encounter, patient, to_bytes

pytestmark = pytest.mark.stack

_INSTITUTION = "ukhd"
_VIEWS = {"latest_risk", "institution_daily_risk"}

Columns = dict[str, tuple[str, bool]]  # name → type, whether it may be null


def columns_of(settings: Settings, table: str) -> Columns:
    rows = fetch(
        settings,
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position",
        table,
    )
    return {row["column_name"]: (row["data_type"], row["is_nullable"] == "YES") for row in rows}


def primary_key_of(settings: Settings, table: str) -> list[str]:
    rows = fetch(
        settings,
        "SELECT column_name FROM information_schema.key_column_usage JOIN information_schema.table_constraints "
        "USING (constraint_name, table_schema, table_name) "
        "WHERE constraint_type = 'PRIMARY KEY' AND table_schema = 'public' AND table_name = $1 "
        "ORDER BY ordinal_position",
        table,
    )
    return [row["column_name"] for row in rows]


@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_a_declared_table_is_the_migrated_one(stack: Settings, table: str) -> None:
    declared = metadata.tables[table]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    expected = {
        column.name: (str(column.type.compile(dialect)).lower(), bool(column.nullable)) for column in declared.columns
    }
    found = columns_of(stack, table)
    assert found == expected
    assert list(found) == list(expected)
    assert primary_key_of(stack, table) == [column.name for column in declared.primary_key]


def test_there_is_no_table_but_the_declared_ones_and_their_partitions(stack: Settings) -> None:
    rows = fetch(stack, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
                        "AND relnamespace = 'public'::regnamespace")  # fmt: skip
    assert {row["relname"] for row in rows} == {*metadata.tables, "alembic_version"}


def test_a_score_has_a_column_for_each_field_of_its_record_but_the_hospitals_references(stack: Settings) -> None:
    of_record = {field.name for field in fields(RiskScore)} - {"patient_reference", "encounter_reference"}
    assert set(SCORE_COLUMNS) == of_record
    assert set(columns_of(stack, "risk_scores")) == of_record | {"superseded_by", "superseded_at"}


def test_the_view_of_the_newest_scores_has_a_number_for_each_feature(stack: Settings) -> None:
    columns = columns_of(stack, "latest_risk")
    assert {name: columns[name][0] for name in FEATURE_NAMES} == dict.fromkeys(FEATURE_NAMES, "double precision")


def test_the_scores_are_partitioned_by_the_month_of_arrival(stack: Settings) -> None:
    [table] = fetch(
        stack,
        "SELECT partstrat::text, pg_get_partkeydef(partrelid) AS key FROM pg_partitioned_table "
        "WHERE partrelid = 'risk_scores'::regclass",
    )
    assert (table["partstrat"], table["key"]) == ("r", "RANGE (received_at)")
    rows = fetch(stack, "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
                        "WHERE inhparent = 'risk_scores'::regclass")  # fmt: skip
    now = datetime.now(UTC)
    months = [divmod(now.year * 12 + now.month - 1 + ahead, 12) for ahead in range(3)]
    expected = {f"risk_scores_{year}_{month + 1:02d}" for year, month in months}
    assert {row["name"] for row in rows} >= expected | {"risk_scores_other"}


# --- an own database, down and up again


@pytest.fixture
def own_database(stack: Settings) -> Iterator[Settings]:
    with database(stack, "migrations") as own:
        yield own


def go(settings: Settings, way: Callable[[Config, str], None], revision: str) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "connectors:migrations")
        config.attributes["connection"] = connection
        way(config, revision)

    asyncio.run(with_connection(settings.database_url, run))


async def with_connection(url: str, act: Callable[[Connection], None]) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.begin() as connection:
        await connection.run_sync(act)
    await engine.dispose()


def everything(settings: Settings) -> dict[str, Any]:
    """Describe all tables, views and functions of our own."""
    names = [row["relname"] for row in fetch(settings, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') "
             "AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'")]  # fmt: skip
    functions = fetch(settings, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    return {**{name: columns_of(settings, name) for name in names}, **{row["proname"]: "()" for row in functions}}


def test_the_command_makes_the_tables_once(own_database: Settings) -> None:
    done = [run(own_database, "migrate", "--json").document for _ in range(2)]
    assert done == [{"migrated": True}, {"migrated": False}]
    assert migration.is_migrated(own_database.database_url)


def test_tables_of_a_later_release_are_left_alone(own_database: Settings) -> None:
    migration.migrate(own_database.database_url)
    fetch(own_database, "UPDATE alembic_version SET version_num = '9999'")
    assert migration.is_migrated(own_database.database_url)
    migration.migrate(own_database.database_url)
    assert [row["version_num"] for row in fetch(own_database, "SELECT version_num FROM alembic_version")] == ["9999"]


def test_migrations_go_down_to_nothing_and_up_to_the_same_again(own_database: Settings) -> None:
    migration.migrate(own_database.database_url)
    first = everything(own_database)
    assert first.keys() >= {*metadata.tables, *_VIEWS, "ensure_risk_score_partitions"}
    go(own_database, command.downgrade, "base")
    assert everything(own_database) == {}
    assert not migration.is_migrated(own_database.database_url)
    migration.migrate(own_database.database_url)
    assert everything(own_database) == first
    assert migration.is_migrated(own_database.database_url)


async def test_a_migration_waits_for_a_batch_that_is_under_way_and_none_of_the_two_is_ended(
    own_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "_TRIES", 1)
    await asyncio.to_thread(go, own_database, command.upgrade, "0008")
    batch = await asyncpg.connect(own_database.database_url)
    try:
        async with batch.transaction():
            await batch.execute("SELECT FROM stream_progress FOR UPDATE")
            migrating = asyncio.create_task(asyncio.to_thread(migration.migrate, own_database.database_url))
            while not await batch.fetch("SELECT FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.1)
            await batch.execute("UPDATE score_outcomes SET updated_at = updated_at")
        await migrating
    finally:
        await batch.close()
    assert await asyncio.to_thread(migration.is_migrated, own_database.database_url)


# --- a small case


def send(settings: Settings, patient_id: str, *resources: dict[str, Any]) -> None:
    topic, key = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), f"Patient/{patient_id}".encode()
    publisher = Publisher(settings)
    publisher.publish(OutMessage(topic, key, to_bytes(one)) for one in resources)
    wait_until_applied(settings, 120)


def daily_totals(settings: Settings) -> Counter[str]:
    """Add the days of the institution up, so that midnight does not matter."""
    names = ("encounters", "inpatient_stays", "high", "medium", "low")
    sums = ", ".join(f"coalesce(sum({name}), 0)::int AS {name}" for name in names)
    [row] = fetch(settings, f"SELECT {sums} FROM institution_daily_risk_exact WHERE institution = $1", _INSTITUTION)
    return Counter(dict(row))


def test_the_daily_view_counts_each_encounter_once_by_class_and_band(trained: Trained, worker: WorkerProcesses) -> None:
    settings, before = trained.settings, daily_totals(trained.settings)
    stays = [encounter(f"day-{number}", patient="day") for number in (1, 2)]
    visit = encounter("day-3", end="2024-03-01T11:00:00Z", patient="day", class_="AMB")
    send(settings, "day", *stays, visit, stays[0])
    send(settings, "day", encounter("day-1", patient="day", version=2, status="entered-in-error"))
    rows = latest_risk(settings, _INSTITUTION, ["day-1", "day-2", "day-3"])
    bands = Counter(row["band"] for row in rows.values())
    assert rows.keys() == {"day-2", "day-3"}
    assert daily_totals(settings) == before + Counter(encounters=2, inpatient_stays=1) + bands


def test_the_daily_view_has_the_mean_of_the_newest_scores(trained: Trained, worker: WorkerProcesses) -> None:
    settings = trained.settings
    send(settings, "mean", encounter("mean-1", patient="mean"))
    days = fetch(settings, "SELECT institution, encounters, mean_probability FROM institution_daily_risk_exact")
    newest = fetch(settings, "SELECT institution, probability FROM risk_scores "
                             "WHERE superseded_by IS NULL AND status <> 'entered-in-error'")  # fmt: skip
    of_days: Counter[str] = Counter()
    of_rows: Counter[str] = Counter()
    for day in days:
        of_days[day["institution"]] += day["encounters"] * day["mean_probability"]
    for row in newest:
        of_rows[row["institution"]] += row["probability"]
    assert of_rows[_INSTITUTION] > 0
    assert dict(of_days) == pytest.approx(dict(of_rows))


def test_superseded_versions_are_kept_and_say_what_replaced_them(trained: Trained, worker: WorkerProcesses) -> None:
    settings = trained.settings
    send(settings, "chain", patient("chain"), encounter("chain-e", end=None, patient="chain"))
    send(settings, "chain", encounter("chain-e", patient="chain", version=2))
    send(settings, "chain", condition("chain-c", patient="chain"))
    versions = rows_of_encounters(settings, "risk_scores", _INSTITUTION, ["chain-e"])["chain-e"]
    first, second, third = versions
    assert [one["superseded_by"] for one in versions] == [second["record_id"], third["record_id"], None]
    assert [one["supersedes"] for one in versions] == [None, first["record_id"], second["record_id"]]
    assert [one["status"] for one in versions] == ["final", "amended", "amended"]
    assert [one["reason"] for one in versions] == [None, "encounter-updated", "history-changed"]
    assert first["superseded_at"] == second["scored_at"]
    assert latest_risk(settings, _INSTITUTION, ["chain-e"])["chain-e"]["record_id"] == third["record_id"]


def test_a_score_lies_in_its_months_partition(trained: Trained, worker: WorkerProcesses) -> None:
    send(trained.settings, "month", encounter("month-1", patient="month"))
    rows = fetch(
        trained.settings,
        "SELECT DISTINCT tableoid::regclass::text AS partition, "
        "'risk_scores_' || to_char(received_at AT TIME ZONE 'UTC', 'YYYY_MM') AS month FROM risk_scores",
    )
    assert rows
    assert [row for row in rows if row["partition"] != row["month"]] == []
