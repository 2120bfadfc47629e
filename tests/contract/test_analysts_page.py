"""docs/analysts.md says what the schema says, and its queries can be found."""

from __future__ import annotations

import re

import pytest

from connectors import views
from tests.analyst_queries import PAGE, queries
from tests.contract.test_tables import migrated


def test_the_data_dictionary_is_made_from_the_schema() -> None:
    page = PAGE.read_text("utf-8")
    assert views.written_into(page) == page, "run: python -m connectors.views write"


def test_a_stale_dictionary_is_noticed() -> None:
    page = PAGE.read_text("utf-8")
    assert views.written_into(page.replace("the encounter, under a pseudonym", "the encounter", 1)) == page


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="end"):
        views.written_into("<!-- data dictionary: begin -->")


@pytest.mark.parametrize(
    ("role", "beside"), [("analyst", {"latest_risk", "risk_history", "risk_outcomes"}), ("aggregate_analyst", set())]
)
def test_the_roles_may_read_the_views_of_the_dictionary_and_nothing_else(role: str, beside: set[str]) -> None:
    """But for what an analyst reads in `risk_history` by `score_versions`: the versions' numbers."""
    granted = re.findall(rf"GRANT SELECT ON ([\w\s,]+?)\s+TO {role}\b", migrated())[-1]
    named = {one.name for one in views.VIEWS if one.name in beside or one.is_aggregate}
    assert set(re.split(r",\s+", granted)) - {"score_versions"} == named


def test_every_query_of_the_page_is_found() -> None:
    asked = queries()
    page = PAGE.read_text("utf-8").partition("## Queries")[2]
    assert len(asked) == page.count("```sql") >= 12
    assert {name for one in asked for name in re.findall(r"\bFROM (\w+)", one.sql)} >= {
        "latest_risk", "risk_history", "institution_daily_risk", "feature_drift", "model_performance",
    }  # fmt: skip


def test_no_column_leads_back_to_an_event_or_a_hospitals_own_id() -> None:
    columns = {column.name for view in views.VIEWS for column in view.columns}
    assert not {one for one in columns if "offset" in one or "partition" in one or "topic" in one or "reference" in one}
