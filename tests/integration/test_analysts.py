"""What an analyst's own login reads and may not: every query of the page, the report, the files, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pyarrow.dataset
import pytest

from connectors import views
from connectors.roles import institution_role
from connectors.settings import Settings
from connectors.tables import metadata
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from schemas.institutions import institutions
from tests.analyst_queries import Query, queries
from tests.integration.command_line import run
from tests.integration.reading import keys_of
from tests.integration.running import Trained
from tests.integration.simulated import events_of

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

_INSTITUTION = "ukhd"  # the one that the page's queries ask for
_NAME = "analysed"  # in every id of the simulated patients, see events_of
_PATIENTS, _UNTIL = 200, datetime(2024, 7, 1, tzinfo=UTC)
_LOGIN, _PASSWORD = "analyst_of_the_tests", "of-the-tests"
_VIEWS = tuple(one.name for one in views.VIEWS)
_QUERIES = queries()
# Drift is measured once a day, over more stays than are simulated here; no small group is told of.
_MAY_BE_EMPTY = {
    "How the models do",
    "Why events were rejected",
    "Features that have moved since training",
    "One feature's drift, day by day",
    "How many were readmitted, by band at discharge",
    "Calibration",
}


@dataclass(frozen=True, slots=True)
class Analyst:
    """The stack as an analyst's login reaches it, and as its owner does."""

    settings: Settings = field(repr=False)
    owner: Settings = field(repr=False)


@pytest.fixture(scope="module")
def analyst(trained: Trained) -> Iterator[Analyst]:
    owner = trained.settings
    publish_events(owner, _INSTITUTION, events_of(_NAME, _INSTITUTION, _PATIENTS, _UNTIL))
    wait_until_applied(owner, 90)
    roles = ", ".join(["analyst", *map(institution_role, institutions())])
    fetch(owner, f"CREATE ROLE {_LOGIN} LOGIN PASSWORD '{_PASSWORD}' IN ROLE {roles}")
    url = urlsplit(owner.database_url)
    address = url._replace(netloc=f"{_LOGIN}:{_PASSWORD}@{url.hostname}:{url.port}").geturl()
    yield Analyst(owner.model_copy(update={"database_url": address}), owner)
    fetch(owner, f"DROP ROLE {_LOGIN}")


@pytest.mark.parametrize("query", _QUERIES, ids=lambda one: one.title)
def test_each_query_of_the_page_answers_an_analyst(analyst: Analyst, query: Query) -> None:
    rows = fetch(analyst.settings, query.sql)
    assert rows or query.title in _MAY_BE_EMPTY


@pytest.mark.parametrize("view", _VIEWS)
def test_an_analyst_reads_of_a_view_what_its_owner_does(analyst: Analyst, view: str) -> None:
    query = f"SELECT count(*) FROM {view}"
    assert fetch(analyst.settings, query) == fetch(analyst.owner, query)


def test_the_role_has_no_right_but_to_read_the_views(analyst: Analyst) -> None:
    rights = fetch(
        analyst.owner,
        """SELECT relname, array_agg(privilege ORDER BY privilege) AS rights
           FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                AS privilege
           WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
             AND has_table_privilege($1, pg_class.oid, privilege)
           GROUP BY relname""",
        _LOGIN,
    )
    assert {one["relname"]: one["rights"] for one in rights} == {
        view: ["SELECT"] for view in (*_VIEWS, "score_versions")
    }


@pytest.mark.parametrize("table", [*sorted(metadata.tables), "risk_scores_other", "institution_daily_risk_exact"])
def test_no_table_can_be_read_but_for_the_columns_of_a_view(analyst: Analyst, table: str) -> None:
    assert fetch(analyst.owner, "SELECT to_regclass($1) IS NOT NULL AS there", table)[0]["there"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        fetch(analyst.settings, f"SELECT * FROM {table}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE latest_risk SET band = 'low'",
        "DELETE FROM latest_risk",
        "INSERT INTO latest_risk (institution) VALUES ('ukhd')",
        "DELETE FROM risk_scores",
        "TRUNCATE stream_progress",
        "CREATE TABLE mine (id integer)",
        "DROP VIEW latest_risk",
        "CREATE ROLE another LOGIN",
    ],
)
def test_nothing_can_be_written(analyst: Analyst, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        fetch(analyst.settings, statement)


@pytest.mark.parametrize("view", _VIEWS)
def test_no_view_tells_an_id_of_the_hospital(analyst: Analyst, view: str) -> None:
    assert not fetch(analyst.settings, f"SELECT * FROM {view} AS one WHERE strpos(one::text, '{_NAME}') > 0")


def test_patients_have_the_pseudonyms_that_the_institutions_key_makes(analyst: Analyst) -> None:
    keys = keys_of(analyst.owner, _INSTITUTION)
    simulated = events_of(_NAME, _INSTITUTION, _PATIENTS, _UNTIL)
    people = {one.key.decode().removeprefix("Patient/") for one in simulated}
    query = "SELECT DISTINCT patient_pseudonym::text AS one FROM latest_risk WHERE institution = $1"
    seen = {row["one"] for row in fetch(analyst.settings, query, _INSTITUTION)}
    assert len(seen & {keys.patient_pseudonym(one) for one in people}) > 100


def test_the_report_is_written_with_an_analysts_login(analyst: Analyst, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = run(analyst.settings, "report", "--since", "2d", "-i", _INSTITUTION, "--out", page, "--json")
    assert ended.code == 0, ended.stderr
    assert ended.document["institutions"] == [_INSTITUTION]
    text = page.read_text("utf-8")
    assert "data:image/svg+xml" in text
    assert _NAME not in text


def test_the_standing_scores_are_exported_with_an_analysts_login(analyst: Analyst, tmp_path: Path) -> None:
    ended = run(analyst.settings, "export", "scores", tmp_path, "--since", "2d", "-i", _INSTITUTION, "--json")
    assert ended.code == 0, ended.stderr
    query = "SELECT record_id::text AS one FROM latest_risk WHERE institution = $1"
    standing = [row["one"] for row in fetch(analyst.settings, query, _INSTITUTION)]
    files = pyarrow.dataset.dataset([one["path"] for one in ended.document["files"]], format="parquet")
    exported = files.to_table()
    assert ended.document["rows"] == len(standing) > 100
    assert sorted(exported["record_id"].to_pylist()) == sorted(standing)
    assert not [name for name in exported.column_names if "reference" in name or "offset" in name]


def test_a_login_outside_the_role_is_told_so(analyst: Analyst, tmp_path: Path) -> None:
    fetch(analyst.owner, f"REVOKE analyst FROM {_LOGIN}")
    try:
        ended = run(analyst.settings, "export", "scores", tmp_path, "--since", "2d")
    finally:
        fetch(analyst.owner, f"GRANT analyst TO {_LOGIN}")
    assert ended.code != 0
    assert "not in role analyst" in ended.stderr
    assert "Traceback" not in ended.stderr
