"""Reasons as people read them."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from healthalliance.progress import OUTCOMES, Progress
from healthalliance.reports import main_reasons, progress_table, risk_table
from schemas.features import FEATURE_NAMES

FEATURES: dict[str, float | None] = {
    "age_years": 71.0,
    "gender_encoded": 0.0,
    "num_conditions": 4.0,
    "num_medications": 2.0,
    "recent_encounters": 0.0,
    "prior_inpatient_stays_365d": 1.0,
    "prior_emergency_visits_180d": 0.0,
    "length_of_stay_days": 3.25,
    "emergency_admission": 1.0,
}


def reasons(**points: float) -> list[str]:
    return main_reasons(FEATURES, points)


def test_the_features_that_raise_the_risk_most_are_named_most_first() -> None:
    assert reasons(age_years=0.02, num_conditions=0.051, length_of_stay_days=0.004, recent_encounters=0.003) == [
        "4 active conditions (+5.1)",
        "71 years of age (+2.0)",
        "3.2 days of stay (+0.4)",
    ]


def test_what_lowers_the_risk_or_does_nothing_is_no_reason() -> None:
    assert reasons(age_years=-0.3, num_conditions=0.0) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("age_years", None, "unknown years of age"),
        ("gender_encoded", 0.0, "gender"),
        ("gender_encoded", 2.0, "gender"),
        ("emergency_admission", 1.0, "emergency admission"),
        ("emergency_admission", 0.0, "no emergency admission"),
        ("recent_encounters", 0.0, "0 encounters in the year before"),
        ("num_medications", 12.0, "12 active medications"),
    ],
)
def test_a_reason_reads_well_whatever_the_value(name: str, value: float | None, text: str) -> None:
    assert main_reasons({name: value}, {name: 0.01}) == [f"{text} (+1.0)"]


@given(
    st.fixed_dictionaries({name: st.floats(0, 1e6) | st.none() for name in FEATURE_NAMES}),
    st.fixed_dictionaries({name: st.floats(-1, 1) for name in FEATURE_NAMES}),
    st.integers(0, 12),
)
def test_there_are_as_many_reasons_as_asked_for_or_as_there_are(
    features: dict[str, float | None], points: dict[str, float], most: int
) -> None:
    found = main_reasons(features, points, most)
    assert len(found) == min(most, sum(value > 0 for value in points.values()))


def shown(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_a_risk_is_shown_with_its_pseudonyms_beginning_and_its_reasons() -> None:
    row: dict[str, Any] = {
        "institution": "dkfz", "patient_pseudonym": "12345678-aaaa", "probability": 0.314, "band": "high",
        "features": FEATURES, "contributions": {"num_conditions": 0.1},
    }  # fmt: skip
    text = shown(risk_table([row]))
    assert "12345678…" in text
    assert "aaaa" not in text
    assert "31.4%" in text
    assert "4 active conditions (+10.0)" in text


def test_progress_shows_each_outcome_and_what_was_published() -> None:
    progress = {"dkfz": Progress({outcome: 1000 + n for n, outcome in enumerate(OUTCOMES)}, waiting=7)}
    text = shown(progress_table(progress, {"dkfz": 5017}))
    assert [cell.strip() for cell in text.splitlines()[-2].strip("│").split("│")] == [
        "dkfz", "5,017", "1,000", "1,001", "1,002", "1,003", "1,004",
    ]  # fmt: skip
