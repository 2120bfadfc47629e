"""Whose rows each role sees: its institutions' only, whatever it sets, asks or calls; and nothing can be written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy.dialects import postgresql

from connectors import views
from connectors.migrate import migrate
from connectors.roles import INSTITUTION_SETTING, ONE_INSTITUTION, ROLES, institution_role, one_institution
from connectors.settings import Settings
from connectors.store import Partition, RejectedRow, Writes, connect, open_pool
from connectors.tables import metadata
from healthalliance.progress import fetch
from schemas.errors import ConfigurationError
from schemas.institutions import institutions
from schemas.rejection import Issue, Reason
from tests.integration.running import database
from tests.unit.connectors.test_store import risk_score

pytestmark = pytest.mark.stack

INSTITUTIONS = tuple(institutions())
PASSWORD = "of-the-tests"
AGGREGATES = {one.name for one in views.VIEWS if one.is_aggregate}
ROW_VIEWS = {one.name for one in views.VIEWS if not one.is_aggregate} | {"score_versions"}
OWNERS_VIEWS = {
    "institution_daily_risk_exact", "judged_outcomes", "model_performance_exact",
    "model_calibration_exact",
}  # fmt: skip
TABLES = {name for name, table in metadata.tables.items() if "institution" in table.columns}
# The tables of which an analyst may read the columns that the views of encounters are made of, and those of the API.
ANALYSTS_TABLES = {"risk_scores", "score_outcomes", "stream_progress"}
READ_BY_SERVICE = {"risk_scores", "patient_history", "rejected_events", "stream_progress"}
WRITTEN_BY_SERVICE = {
    "worklist_marks", "cds_cards", "intake_requests", "alert_channels", "alert_standings", "alerts",
}  # fmt: skip
RELATIONS = TABLES | AGGREGATES | ROW_VIEWS | OWNERS_VIEWS

READABLE: dict[str, set[str]] = {
    "analyst": AGGREGATES | ROW_VIEWS | ANALYSTS_TABLES,
    "aggregate_analyst": AGGREGATES,
    "": set(),  # nothing but the institution
}
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Database:
    """A database with rows of all institutions in every table, as its owner reaches it."""

    owner: Settings = field(repr=False)

    def login(self, name: str) -> Settings:
        url = urlsplit(self.owner.database_url)
        address = url._replace(netloc=f"{name}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
        return self.owner.model_copy(update={"database_url": address})

    def ask(
        self,
        login: str,
        *statements: str,
        listen: list[str] | None = None,
        session: Mapping[str, str] | None = None,
    ) -> list[Any]:
        """Run statements in one session of a login; return the last one's rows."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.login(login).database_url, server_settings=dict(session or {}))
            if listen is not None:
                connection.add_log_listener(lambda _, message: listen.append(str(message.message)))
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return list(await connection.fetch(statements[-1]))
            finally:
                await connection.close()

        return asyncio.run(run())

    def seen(self, login: str, **session: str) -> dict[str, set[str]]:
        """Return whose rows a login sees in each table and view that it may read at all."""

        async def run() -> dict[str, set[str]]:
            connection = await asyncpg.connect(self.login(login).database_url, server_settings=session)
            found = {}
            try:
                for name in sorted(RELATIONS):
                    try:
                        rows = await connection.fetch(f"SELECT DISTINCT institution FROM {name}")
                    except asyncpg.InsufficientPrivilegeError:
                        continue
                    found[name] = {row["institution"] for row in rows}
                return found
            finally:
                await connection.close()

        return asyncio.run(run())


def each(names: set[str], institutions: set[str]) -> dict[str, set[str]]:
    return dict.fromkeys(names, institutions)


def login_of(role: str, *of: str) -> str:
    return "_".join(["tests", role or "nobody", *of])


@pytest.fixture(scope="module")
def filled(stack: Settings) -> Iterator[Database]:
    logins: dict[str, list[str]] = {}
    for role in READABLE:
        for one in INSTITUTIONS:
            logins[login_of(role, one)] = [*filter(None, [role]), institution_role(one)]
        logins[login_of(role, *INSTITUTIONS[:2])] = [*filter(None, [role]), *map(institution_role, INSTITUTIONS[:2])]
        logins[login_of(role)] = [*filter(None, [role])]
    logins[login_of(ONE_INSTITUTION)] = [ONE_INSTITUTION]
    with database(stack, "row_level_security") as own:
        migrate(own.database_url)
        fetch(own, "SELECT ensure_risk_score_partitions('2025-05-01', 2)")
        for table in TABLES:
            for one in INSTITUTIONS:
                insert(own, table, one)
        for one in INSTITUTIONS:
            for statement in _MANY:
                fetch(own, statement, one, _NOW)
        fetch(own, "ANALYZE")
        for name, roles in logins.items():
            member = f"IN ROLE {', '.join(roles)}" if roles else ""
            fetch(own, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {member}")
        yield Database(own)
    for name in logins:
        fetch(stack, f"DROP ROLE {name}")


def insert(settings: Settings, table: str, institution: str) -> None:
    """Insert a row of an institution, whose values are any that the table takes."""
    words = {"institution": institution, "status": "final", "band": "low", "state": "waiting", "outcome": "pending"}
    made: dict[str, Any] = {
        "uuid": "gen_random_uuid()", "timestamp with time zone": f"'{_NOW.isoformat()}'", "date": "'2025-06-30'",
        "text": "'made-up'", "jsonb": "'[]'", "bytea": "'x'", "boolean": "true",
    }  # fmt: skip
    values = {
        column.name: f"'{words[column.name]}'"
        if column.name in words
        else made.get(str(column.type.compile(_DIALECT)).lower(), "0")
        for column in metadata.tables[table].columns
        if not column.nullable
    }
    fetch(settings, f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})")


# Enough of each that no aggregate is left out.
_MANY = (
    """INSERT INTO risk_scores (record_id, institution, patient_pseudonym, encounter_pseudonym, encounter_version,
           status, inpatient, as_of, received_at, scored_at, probability, band, baseline, contributions, features,
           feature_set, model_name, model_version, model_digest, topic_id, source_partition, source_offset)
       SELECT gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), '1', 'final', n % 2 = 0, at, at, at,
              n / 600.0, CASE n % 3 WHEN 0 THEN 'low' WHEN 1 THEN 'medium' ELSE 'high' END, 0.1, '{}', '{}', 1,
              'made-up', '1', '', gen_random_uuid(), 0, n
       FROM generate_series(1, 600) AS n, (SELECT $2::timestamptz - interval '40 days' AS at) AS moment""",
    """UPDATE stream_progress SET known_until = $2, scored = 600 WHERE institution = $1""",
    """INSERT INTO score_outcomes (institution, encounter_pseudonym, patient_pseudonym, discharged_at, outcome,
           record_id, received_at, updated_at)
       SELECT institution, encounter_pseudonym, patient_pseudonym, received_at,
              CASE source_offset % 2 WHEN 0 THEN 'readmitted' ELSE 'pending' END, record_id, received_at, $2
       FROM risk_scores WHERE institution = $1 AND probability IS NOT NULL""",
    """INSERT INTO rejected_events (topic_id, source_partition, source_offset, institution, received_at, rejected_at,
           reason, issues)
       SELECT gen_random_uuid(), 0, n, $1, $2, $2, 'invalid-code', '[]' FROM generate_series(1, 100) AS n""",
)


# --- each role, each institution, each table and view


@pytest.mark.parametrize("one", INSTITUTIONS)
@pytest.mark.parametrize("role", READABLE)
def test_a_login_sees_its_institutions_rows_and_only_where_its_role_reads(
    filled: Database, role: str, one: str
) -> None:
    assert filled.seen(login_of(role, one)) == each(READABLE[role], {one})


@pytest.mark.parametrize("role", READABLE)
def test_a_login_of_two_institutions_sees_both(filled: Database, role: str) -> None:
    assert filled.seen(login_of(role, *INSTITUTIONS[:2])) == each(READABLE[role], set(INSTITUTIONS[:2]))


@pytest.mark.parametrize("role", READABLE)
def test_a_login_of_no_institution_sees_no_row(filled: Database, role: str) -> None:
    assert filled.seen(login_of(role)) == each(READABLE[role], set())


@pytest.mark.parametrize("one", INSTITUTIONS)
@pytest.mark.parametrize("set_to", [*INSTITUTIONS, "", "nowhere", "%"])
def test_the_setting_narrows_a_login_and_never_widens_it(filled: Database, one: str, set_to: str) -> None:
    seen = filled.seen(login_of("analyst", one), **{INSTITUTION_SETTING: set_to})
    assert seen == each(READABLE["analyst"], {one} if set_to in ("", one) else set())


@pytest.mark.parametrize("set_to", [*INSTITUTIONS, None, "", "nowhere", "%"])
def test_a_session_that_serves_an_institution_sees_that_ones_rows(filled: Database, set_to: str | None) -> None:
    session = {} if set_to is None else {INSTITUTION_SETTING: set_to}
    expected = {one for one in INSTITUTIONS if one == set_to}
    assert filled.seen(login_of(ONE_INSTITUTION), **session) == each(READ_BY_SERVICE | WRITTEN_BY_SERVICE, expected)


def test_the_owner_sees_all(filled: Database) -> None:
    for name in RELATIONS:
        rows = fetch(filled.owner, f"SELECT DISTINCT institution FROM {name}")
        assert {row["institution"] for row in rows} == set(INSTITUTIONS), name


# --- nothing can be written

NOT_OF_A_VIEW = (asyncpg.WrongObjectTypeError, asyncpg.ObjectNotInPrerequisiteStateError)


@pytest.mark.parametrize("role", READABLE)
def test_analysts_and_institutions_write_nowhere(filled: Database, role: str) -> None:
    login = login_of(role, INSTITUTIONS[0])
    for name in sorted(RELATIONS):
        for statement in (
            f"UPDATE {name} SET institution = institution",
            f"DELETE FROM {name}",
            f"INSERT INTO {name} (institution) VALUES ('{INSTITUTIONS[0]}')",
            f"TRUNCATE {name}",
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, *NOT_OF_A_VIEW)):
                filled.ask(login, statement)


@pytest.mark.parametrize("table", sorted(WRITTEN_BY_SERVICE))
def test_a_session_that_serves_an_institution_writes_no_others_rows(filled: Database, table: str) -> None:
    login, (mine, other, _) = login_of(ONE_INSTITUTION), INSTITUTIONS
    moved = f"UPDATE {table} SET institution = '{other}' WHERE institution = '{mine}'"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        filled.ask(login, moved, session={INSTITUTION_SETTING: mine})
    others = f"WHERE institution = '{other}' RETURNING 1"
    for statement in (f"DELETE FROM {table} {others}", f"UPDATE {table} SET institution = '{mine}' {others}"):
        assert filled.ask(login, statement, session={INSTITUTION_SETTING: mine}) == []


# --- tricks


MINE, OTHER = INSTITUTIONS[:2]
REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)


@pytest.mark.parametrize(
    "statement",
    [
        f"SET ROLE {institution_role(OTHER)}",
        f"SET ROLE {ONE_INSTITUTION}",
        "SET ROLE healthalliance",
        "SET SESSION AUTHORIZATION healthalliance",
        f"GRANT {institution_role(OTHER)} TO {login_of('analyst', MINE)}",
        f"CREATE ROLE {institution_role('another')}",
        f"ALTER ROLE {login_of('analyst', MINE)} BYPASSRLS",
        "ALTER TABLE risk_scores NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY readers ON risk_scores",
        "CREATE POLICY mine ON risk_scores USING (true)",
        "ALTER VIEW latest_risk SET (security_invoker = false)",
        "CREATE VIEW mine AS SELECT * FROM risk_scores",
        "SELECT protect_rows()",
        "SELECT make_roles(ARRAY['institution_x'])",
        "SELECT grant_analysts()",
        "SELECT ensure_risk_score_partitions('2030-01-01', 1)",
        "SELECT * FROM risk_scores_other",
        "SELECT * FROM risk_scores_2025_06",
        "SELECT source_offset FROM risk_scores",
        "SELECT * FROM risk_scores",
        "SELECT salt FROM noise_salt",
        "SELECT query_to_xml('SELECT history FROM patient_history', true, true, '')",
        "SELECT staattnum FROM pg_statistic",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_a_trick_is_refused(filled: Database, statement: str) -> None:
    with pytest.raises(REFUSED):
        filled.ask(login_of("analyst", MINE), statement)


@pytest.mark.parametrize("relation", sorted(READABLE["analyst"]))
@pytest.mark.parametrize(
    "before",
    [
        (f"SET {INSTITUTION_SETTING} = '{OTHER}'",),
        ("SET ROLE analyst",),
        (f"SET search_path = pg_temp, public; {'CREATE FUNCTION pg_temp.readable_institutions() RETURNS text[]'} "
         f"LANGUAGE sql AS $$ SELECT ARRAY['{OTHER}'] $$",),
        ("CREATE TEMP TABLE pg_roles AS SELECT 'institution_' || x AS rolname, 10::oid AS oid "
         f"FROM unnest(ARRAY['{OTHER}']) AS x", "SET search_path = pg_temp, pg_catalog, public"),
        ("SET plan_cache_mode = force_generic_plan", f"SET {INSTITUTION_SETTING} = ''"),
    ],
    ids=["setting", "role", "function", "catalog", "plan"],
)  # fmt: skip
def test_no_other_institutions_row_comes_of_a_trick(filled: Database, relation: str, before: tuple[str, ...]) -> None:
    rows = filled.ask(login_of("analyst", MINE), *before, f"SELECT DISTINCT institution FROM {relation}")
    assert {row["institution"] for row in rows} <= {MINE}


_LEAK = """CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
           $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"""
_LEAKING_OPERATOR = """CREATE OPERATOR pg_temp.=! (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.leaks)"""
_LEAKS = """CREATE FUNCTION pg_temp.leaks(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
            $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"""


@pytest.mark.parametrize("relation", sorted(READABLE["analyst"]))
def test_a_function_or_operator_of_ones_own_is_shown_no_other_institutions_row(filled: Database, relation: str) -> None:
    told: list[str] = []
    login = login_of("analyst", MINE)
    filled.ask(login, _LEAK, f"SELECT count(institution) FROM {relation} WHERE pg_temp.leak(institution)", listen=told)
    where = f"institution OPERATOR(pg_temp.=!) '{OTHER}'"
    filled.ask(
        login, _LEAKS, _LEAKING_OPERATOR, f"SELECT count(institution) FROM {relation} WHERE {where}", listen=told
    )
    # One row of another institution would end it by a division by zero.
    filled.ask(login, f"SELECT count(institution) FROM {relation} WHERE 1 / (institution = '{MINE}')::int = 1")
    assert set(told) == {MINE}


def test_statistics_tell_analysts_nothing(filled: Database) -> None:
    query = "SELECT tablename FROM pg_stats WHERE schemaname = 'public'"
    assert fetch(filled.owner, query)
    assert filled.ask(login_of("analyst", MINE), query) == []


def test_row_security_that_is_set_off_ends_a_query_instead_of_widening_it(filled: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        filled.ask(login_of("analyst", MINE), "SET row_security = off", "SELECT institution FROM risk_scores")


def test_an_analysts_plan_asks_for_the_institutions_once_and_uses_the_index(filled: Database) -> None:
    rows = filled.ask(
        login_of("analyst", MINE),
        "SET enable_seqscan = off",
        "EXPLAIN SELECT count(band) FROM latest_risk WHERE received_at >= '2025-05-01'",
    )
    plan = "\n".join(row[0] for row in rows)
    assert "InitPlan" in plan
    assert "risk_scores_daily" in plan or "_institution_received_at_" in plan


# --- what is declared


def unprotected(settings: Settings) -> set[str]:
    """Name the tables with institutions' rows on which a policy, or its force over the owner, is missing."""
    rows = fetch(
        settings,
        """SELECT c.relname AS name FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE a.attname = 'institution' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
             AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND (
                 SELECT array_agg(polname::text ORDER BY polname::text) FROM pg_policy WHERE polrelid = c.oid)
                 = CASE WHEN c.relispartition THEN ARRAY['pipeline']
                        ELSE ARRAY['one_institution', 'pipeline', 'readers'] END)""",
    )
    return {row["name"] for row in rows}


def test_every_table_with_institutions_rows_is_protected_and_so_is_one_that_is_made_later(filled: Database) -> None:
    assert unprotected(filled.owner) == set()
    fetch(filled.owner, "CREATE TABLE made_later (institution text)")
    try:
        assert unprotected(filled.owner) == {"made_later"}
        migrate(filled.owner.database_url)
        assert unprotected(filled.owner) == set()
    finally:
        fetch(filled.owner, "DROP TABLE made_later")


def test_views_of_encounters_are_read_with_the_readers_rights_and_a_migration_sees_to_it(filled: Database) -> None:
    query = "SELECT relname FROM pg_class WHERE 'security_invoker=true' = ANY (reloptions)"
    invoked = {"latest_risk", "risk_history", "risk_outcomes"}
    fetch(filled.owner, "ALTER VIEW risk_outcomes RESET (security_invoker)")
    migrate(filled.owner.database_url)
    assert {row["relname"] for row in fetch(filled.owner, query)} == invoked


def test_no_role_goes_around_the_policies(filled: Database) -> None:
    rows = fetch(
        filled.owner,
        "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication OR rolcanlogin "
        "AS may FROM pg_roles WHERE rolname = ANY ($1)",
        list(ROLES),
    )
    assert {row["rolname"]: row["may"] for row in rows} == dict.fromkeys(ROLES, False)
    assert not fetch(filled.owner, "SELECT FROM pg_roles WHERE rolbypassrls AND NOT rolsuper")


# --- an owner that is no superuser, as on a managed service


@pytest.fixture(scope="module")
def managed(stack: Settings) -> Iterator[Settings]:
    """Have a database whose owner may neither make roles nor pass by policies, where the roles were made before."""
    owner = "tests_owner"
    fetch(stack, f"CREATE ROLE {owner} LOGIN PASSWORD '{PASSWORD}'")
    for role in (ONE_INSTITUTION, *map(institution_role, INSTITUTIONS)):
        fetch(stack, f"GRANT {role} TO {owner}")
    with database(stack, "managed") as own:
        fetch(own, f"ALTER DATABASE managed OWNER TO {owner}")
        fetch(own, f"GRANT ALL ON SCHEMA public TO {owner}")
        yield Database(own).login(owner)
    fetch(stack, f"DROP ROLE {owner}")


async def write_a_batch(settings: Settings, institution: str) -> None:
    store = await connect(settings.database_url)
    try:
        score = risk_score(institution=institution)
        partition = Partition(score.topic_id, f"encounters.{institution}", institution, 0)
        rejected = RejectedRow(score.topic_id, 0, 1, institution, _NOW, (Issue(Reason.INVALID_CODE, "Encounter", "x"),))
        nothing: Mapping[str, Any] = {
            "advances": (), "histories": {("dkfz", score.patient_pseudonym): (0, b"sealed")}, "patient_of": {},
            "superseded": (), "erased": {}, "stay_outcomes": {}, "challenger_scores": (),
        }  # fmt: skip
        async with store.batch() as batch:
            await batch.lock_progress({partition: 0}, _NOW)
            await batch.write(Writes(now=_NOW, scores=[score], rejected=[rejected], **nothing))
    finally:
        await store.close()


def test_a_worker_writes_and_reads_as_an_owner_whom_the_policies_hold(managed: Settings) -> None:
    migrate(managed.database_url)
    assert unprotected(managed) == set()
    asyncio.run(write_a_batch(managed, MINE))
    for table in ("risk_scores", "rejected_events", "stream_progress", "latest_risk", "institution_events"):
        rows = fetch(managed, f"SELECT institution FROM {table}")
        assert [row["institution"] for row in rows] == [MINE], table


async def test_a_login_that_may_not_take_the_services_role_is_told_so(filled: Database) -> None:
    url = filled.login(login_of("analyst", MINE)).database_url
    with pytest.raises(ConfigurationError, match=ONE_INSTITUTION):
        await open_pool(url, connections=1, session=one_institution(MINE))
