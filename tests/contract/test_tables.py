"""The tables: what the code declares, what the migrations make, and what the records hold are the same."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, fields
from functools import cache

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Index, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from connectors.migrations.versions import (
    m0001_first_tables,
    m0002_rejection_resolutions,
    m0003_outcomes,
    m0004_http,
    m0006_analysts,
    m0007_alerts,
    m0008_judged_scores,
    m0009_outcomes_with_scores,
    m0010_row_level_security,
    m0012_audit_events,
    m0013_pseudonym_keys,
)
from connectors.store import ERASED_TABLES, SCORE_COLUMNS
from connectors.tables import metadata, rejected_events, risk_scores, stream_progress
from healthalliance.progress import OUTCOMES
from schemas.feature_words import FEATURE_LABELS, Language, phrase
from schemas.features import FEATURE_NAMES, Features
from schemas.messages import Band, RiskScore, ScoreStatus
from streams.decision import Outcome

POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
PATIENTS_OWN = {"patient_reference", "encounter_reference"}  # the hospital's, never shared
EXTRAS = {"superseded_by", "superseded_at"}


@cache
def migrated() -> str:
    """Return all statements of the migrations, as they would be sent."""
    out = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": out})
    with Operations.context(context):
        m0001_first_tables.upgrade()
        m0002_rejection_resolutions.upgrade()
        m0003_outcomes.upgrade()
        m0004_http.upgrade()
        m0006_analysts.upgrade()
        m0007_alerts.upgrade()
        m0008_judged_scores.upgrade()
        m0009_outcomes_with_scores.upgrade()
        m0010_row_level_security.upgrade()
        m0012_audit_events.upgrade()
        m0013_pseudonym_keys.upgrade()
    return out.getvalue()


@dataclass(frozen=True)
class Made:
    """A table as a migration makes it: (name, type, nullable, default) of each column, primary key, partitioning."""

    columns: list[tuple[str, str, bool, str | None]]
    primary_key: list[str]
    partitioned_by: str | None


_CREATE = re.compile(
    r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(\n(.*?)\n\)(?: PARTITION BY ([^;]+))?(?: WITH [^;]+)?;", re.DOTALL
)
_COLUMN = re.compile(
    r"(?P<name>\w+) (?P<type>[a-z]+(?: precision)?)"
    r"(?P<null> NOT NULL| PRIMARY KEY)?(?: DEFAULT (?P<default>\w+))?(?: CHECK \(.*\))?,?"
)
_LONG_NAMES = {"timestamptz": "timestamp with time zone"}


_ADD_COLUMN = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (?:IF NOT EXISTS )?([^;]+);")


@cache
def made() -> dict[str, Made]:
    added = _ADD_COLUMN.findall(migrated())
    return {
        name: _made([*body.splitlines(), *(column for table, column in added if table == name)], partitioned)
        for name, body, partitioned in _CREATE.findall(migrated())
    }


def _made(lines: list[str], partitioned: str) -> Made:
    columns, key = [], []
    for line in (one.strip() for one in lines):
        if line.startswith("PRIMARY KEY"):
            key = line[line.index("(") + 1 : line.rindex(")")].split(", ")
            continue
        found = _COLUMN.fullmatch(line)
        assert found, f"this test cannot read {line!r}"
        if found["null"] == " PRIMARY KEY":
            key = [found["name"]]
        type_ = _LONG_NAMES.get(found["type"], found["type"])
        columns.append((found["name"], type_, found["null"] is None, found["default"]))
    return Made(columns, key, partitioned or None)


def declared(table: Table) -> Made:
    partitioned = table.dialect_options["postgresql"]["partition_by"]
    return Made([_declared(one) for one in table.columns], [one.name for one in table.primary_key], partitioned)


def _declared(column: Column[object]) -> tuple[str, str, bool, str | None]:
    type_ = column.type.compile(dialect=POSTGRESQL).lower()
    default = getattr(column.server_default, "arg", None)
    return column.name, type_, bool(column.nullable), default


def test_the_migrations_make_the_declared_tables_and_no_others() -> None:
    assert set(made()) == set(metadata.tables)


@pytest.mark.parametrize("name", metadata.tables)
def test_the_migrations_make_each_table_as_it_is_declared(name: str) -> None:
    assert made()[name] == declared(metadata.tables[name])


def test_the_migrations_make_the_declared_indexes() -> None:
    indexes: list[Index] = [index for table in metadata.tables.values() for index in table.indexes]
    texts = {str(CreateIndex(index).compile(dialect=POSTGRESQL)) for index in indexes}
    dropped = set(re.findall(r"DROP INDEX (\w+)", migrated()))
    told = migrated().replace("CREATE INDEX IF NOT EXISTS", "CREATE INDEX")
    made = {" ".join(text.split()) for text in re.findall(r"CREATE INDEX [^;]*", told)}
    assert {text for text in made if text.split()[2] not in dropped} == texts


@pytest.mark.parametrize("name", metadata.tables)
def test_no_table_that_institutions_share_has_a_column_for_a_hospitals_own_reference(name: str) -> None:
    columns = {column.name for column in metadata.tables[name].columns}
    assert not {
        column for column in columns if "reference" in column or column.endswith(("patient_id", "encounter_id"))
    }


def test_an_erased_patient_leaves_every_table_but_those_whose_rows_the_decision_rewrites() -> None:
    rewritten = {"patient_history", "patient_encounters", "score_outcomes"}
    about_a_patient = {name for name, table in metadata.tables.items() if "patient_pseudonym" in table.columns}
    assert about_a_patient - rewritten == set(ERASED_TABLES)


def test_each_column_of_the_scores_is_a_field_of_the_record_or_a_declared_extra() -> None:
    stored = [field.name for field in fields(RiskScore) if field.name not in PATIENTS_OWN]
    columns = [column.name for column in risk_scores.columns]
    assert columns == [*stored, *(name for name in columns if name in EXTRAS)]
    assert list(SCORE_COLUMNS) == stored


def test_a_score_column_may_be_null_exactly_where_the_field_may_be_none() -> None:
    optional = {field.name for field in fields(RiskScore) if "None" in str(field.type)}
    assert {column.name for column in risk_scores.columns if column.nullable} == optional | EXTRAS


@pytest.mark.parametrize(("column", "words"), [("status", ScoreStatus), ("band", Band)])
def test_the_database_accepts_the_words_that_the_code_knows(column: str, words: type[ScoreStatus] | type[Band]) -> None:
    found = re.search(rf"CHECK \({column} IN \(([^)]*)\)\)", migrated())
    assert found
    assert found[1].replace("'", "").split(", ") == [str(word) for word in words]


def test_progress_counts_every_way_an_event_can_end() -> None:
    outcomes = [str(outcome) for outcome in Outcome]
    assert [column.name for column in stream_progress.columns if column.server_default is not None] == outcomes
    assert list(OUTCOMES) == outcomes


def test_nothing_of_a_rejected_event_but_reasons_and_paths_is_stored() -> None:
    assert [column.name for column in rejected_events.columns][-2:] == ["reason", "issues"]
    assert not {"key", "value", "headers", "text"} & {column.name for column in rejected_events.columns}


# --- features have one home


@pytest.mark.parametrize("alias", ["", "one."])
def test_the_analysts_views_have_a_column_for_each_feature_in_order(alias: str) -> None:
    found = re.findall(rf"\({re.escape(alias)}features->>'(\w+)'\)::double precision AS (\w+)", migrated())
    # The history's view is made again by a later migration.
    assert found == [(name, name) for name in FEATURE_NAMES] * (2 if alias else 1)


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_feature_has_a_name_for_people_and_its_values_have_words(language: Language) -> None:
    assert tuple(FEATURE_LABELS[language]) == FEATURE_NAMES
    values = vars(Features(*map(float, range(len(FEATURE_NAMES)))))
    said = {name: phrase(name, value, language).text for name, value in values.items()}
    assert len(set(said.values())) == len(FEATURE_NAMES)
    # What has no words of its own is named like a table's column: `name: value`.
    assert not [name for name, text in said.items() if ":" in text]
