"""Each feature at its boundaries, and that nothing later than its time leaks in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import FEATURE_NAMES, UNKNOWN, Features, as_of, featurize
from schemas.history import EncounterFacts, PatientHistory, fold
from tests.unit.schemas.fhir_events import (
    bundle,
    concept,
    condition,
    dkfz,
    encounter,
    medication_request,
    parse,
    patient,
)

ADMITTED = datetime(2024, 3, 1, 10, tzinfo=UTC)
RULES = dkfz().rules
ONE_SECOND = timedelta(seconds=1)


def text(at: datetime) -> str:
    return at.isoformat()


def days(number: float) -> str:
    """Write the time so many days after the admission."""
    return text(ADMITTED + timedelta(days=number))


def stay(id_: str, start: str | None, end: str | None, **more: Any) -> dict[str, Any]:
    return encounter(id_, start, end, **more)


def history_of(*resources: dict[str, Any]) -> PatientHistory:
    history = PatientHistory("p1")
    parsed = parse(bundle(*resources))
    assert parsed.issues == ()
    for entry in parsed.entries:
        history, _ = fold(history, entry)
    return history


def facts_of(history: PatientHistory, id_: str = "now") -> EncounterFacts:
    facts = history.encounters[id_].facts
    assert facts is not None
    return facts


def features_of(*resources: dict[str, Any], **now: Any) -> Features:
    """Featurize the encounter `now` (a stay of four days, but for what is given) among the resources."""
    history = history_of(encounter("now", **{"start": days(0), "end": days(4), **now}), *resources)
    facts = facts_of(history)
    at = as_of(history, "now", facts)
    assert at is not None
    return featurize(history, "now", facts, at, RULES)


before_year = text(ADMITTED - timedelta(days=365))
just_before_year = text(ADMITTED - timedelta(days=365) - ONE_SECOND)
half_year = text(ADMITTED - timedelta(days=180))
CASES: dict[str, tuple[str, float | None, list[dict[str, Any]], dict[str, Any]]] = {
    "no birth date": ("age_years", None, [patient(birth_date=None)], {}),
    "no patient": ("age_years", None, [], {}),
    "the day before a birthday": ("age_years", 73.0, [patient(birth_date="1950-03-06")], {}),
    "a birthday on the day of discharge": ("age_years", 74.0, [patient(birth_date="1950-03-05")], {}),
    "born on a 29th of February": ("age_years", 72.0, [patient(birth_date="1952-02-29")], {}),
    "a newborn": ("age_years", 0.0, [patient(birth_date="2024-03-01")], {}),
    "a birth a day after the discharge": ("age_years", None, [patient(birth_date="2024-03-02")], {"end": days(0.1)}),
    "female": ("gender_encoded", 0.0, [patient()], {}),
    "male": ("gender_encoded", 1.0, [patient(gender="male")], {}),
    "other": ("gender_encoded", 2.0, [patient(gender="other")], {}),
    "of no gender told": ("gender_encoded", 2.0, [patient(gender=None)], {}),
    "gender of an unknown patient": ("gender_encoded", 2.0, [], {}),
    "two diagnoses": ("num_conditions", 2.0, [condition("a"), condition("b", code="E11")], {}),
    "one diagnosis twice": ("num_conditions", 1.0, [condition("a"), condition("b")], {}),
    "a diagnosis at the discharge": ("num_conditions", 1.0, [condition(onset=days(4))], {}),
    "a diagnosis after it": ("num_conditions", 0.0, [condition(onset=days(4.001))], {}),
    "a diagnosis over at the discharge": ("num_conditions", 0.0, [condition(abatementDateTime=days(4))], {}),
    "a diagnosis over after it": ("num_conditions", 1.0, [condition(abatementDateTime=days(4.001))], {}),
    "a diagnosis of unknown onset": ("num_conditions", 1.0, [condition(onset=None)], {}),
    "a refuted diagnosis": ("num_conditions", 0.0, [condition(verificationStatus=concept("refuted"))], {}),
    "a resolved diagnosis": ("num_conditions", 0.0, [condition(clinicalStatus=concept("resolved"))], {}),
    "two drugs": ("num_medications", 2.0, [medication_request("a"), medication_request("b", code="A10")], {}),
    "one drug twice": ("num_medications", 1.0, [medication_request("a"), medication_request("b")], {}),
    "a draft": ("num_medications", 0.0, [medication_request(status="draft")], {}),
    "a course that ended long ago": ("num_medications", 0.0, [medication_request(status="completed")], {}),
    "a course that ended 29 days ago": (
        "num_medications",
        1.0,
        [medication_request(authored=days(-25), status="completed")],
        {},
    ),
    "a drug ordered later": ("num_medications", 0.0, [medication_request(authored=days(5))], {}),
    "a start 365 days before": ("recent_encounters", 1.0, [stay("x", before_year, days(-364))], {}),
    "a start a second earlier": ("recent_encounters", 0.0, [stay("x", just_before_year, days(-364))], {}),
    "a start at the same moment": ("recent_encounters", 0.0, [stay("x", days(0), days(1))], {}),
    "a later start": ("recent_encounters", 0.0, [stay("x", days(1), days(2))], {}),
    "an overlapping visit": ("recent_encounters", 1.0, [stay("x", days(-2), days(1))], {}),
    "an ambulatory visit": ("recent_encounters", 1.0, [stay("x", days(-2), days(-2), class_="AMB")], {}),
    "a planned visit": ("recent_encounters", 0.0, [stay("x", days(-2), days(-1), status="planned")], {}),
    "a cancelled visit": ("recent_encounters", 0.0, [stay("x", days(-2), days(-1), status="cancelled")], {}),
    "a visit without a start": ("recent_encounters", 0.0, [stay("x", None, days(-1))], {}),
    "a part of another stay": (
        "recent_encounters",
        1.0,
        [stay("x", days(-3), days(-1)), stay("y", days(-2), days(-1), partOf={"reference": "Encounter/x"})],
        {},
    ),
    "an end 365 days before": ("prior_inpatient_stays_365d", 1.0, [stay("x", days(-370), before_year)], {}),
    "an end a second earlier": ("prior_inpatient_stays_365d", 0.0, [stay("x", days(-370), just_before_year)], {}),
    "an end at the admission": ("prior_inpatient_stays_365d", 1.0, [stay("x", days(-2), days(0))], {}),
    "an overlapping stay": ("prior_inpatient_stays_365d", 0.0, [stay("x", days(-2), days(1))], {}),
    "a stay nobody closed": ("prior_inpatient_stays_365d", 0.0, [stay("x", days(-2), None)], {}),
    "an ambulatory visit of an hour": (
        "prior_inpatient_stays_365d",
        0.0,
        [stay("x", days(-2), days(-1.96), class_="AMB")],
        {},
    ),
    "an ambulatory visit of 24 hours": (
        "prior_inpatient_stays_365d",
        1.0,
        [stay("x", days(-2), days(-1), class_="AMB")],
        {},
    ),
    "a ward's part of a stay": (
        "prior_inpatient_stays_365d",
        0.0,
        [stay("x", days(-3), days(-1), partOf={"reference": "Encounter/other"})],
        {},
    ),
    "a planned stay": ("prior_inpatient_stays_365d", 0.0, [stay("x", days(-3), days(-1), status="planned")], {}),
    "an emergency 180 days before": (
        "prior_emergency_visits_180d",
        1.0,
        [stay("x", half_year, days(-180), class_="EMER")],
        {},
    ),
    "an emergency a second earlier": (
        "prior_emergency_visits_180d",
        0.0,
        [stay("x", text(ADMITTED - timedelta(days=180) - ONE_SECOND), days(-1), class_="EMER")],
        {},
    ),
    "this very emergency": ("prior_emergency_visits_180d", 0.0, [], {"class_": "EMER"}),
    "four days": ("length_of_stay_days", 4.0, [], {}),
    "twelve hours": ("length_of_stay_days", 0.5, [], {"end": days(0.5)}),
    "a stay just begun": ("length_of_stay_days", 0.0, [], {"end": None}),
    "an open stay, last heard of on day 2": (
        "length_of_stay_days",
        2.0,
        [],
        {"end": None, "meta": {"lastUpdated": days(2)}},
    ),
    "an open stay with a diagnosis on day 3": (
        "length_of_stay_days",
        3.0,
        [condition(onset=days(3), encounter={"reference": "Encounter/now"})],
        {"end": None, "meta": {"lastUpdated": days(2)}},
    ),
    "an open stay and another's diagnosis": ("length_of_stay_days", 0.0, [condition(onset=days(3))], {"end": None}),
    "an elective admission": ("emergency_admission", 0.0, [], {}),
    "an emergency by class": ("emergency_admission", 1.0, [], {"class_": "EMER"}),
    "an emergency by priority": ("emergency_admission", 1.0, [], {"priority": concept("EM", "v3-ActPriority")}),
    "an emergency by source": ("emergency_admission", 1.0, [], {"hospitalization": {"admitSource": concept("emd")}}),
    "a German emergency": ("emergency_admission", 1.0, [], {"hospitalization": {"admitSource": concept("N")}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_feature_is_what_its_description_says(case: str) -> None:
    name, expected, resources, now = CASES[case]
    assert getattr(features_of(*resources, **now), name) == expected


def test_each_feature_has_cases() -> None:
    assert {name for name, *_ in CASES.values()} == set(FEATURE_NAMES)


def test_a_vector_is_in_the_order_of_the_names_with_minus_one_for_the_unknown() -> None:
    features = features_of()
    assert features.vector() == tuple(
        UNKNOWN if value is None else value for value in (getattr(features, name) for name in FEATURE_NAMES)
    )
    assert features.vector()[0] == UNKNOWN == -1.0


def test_an_encounter_without_a_beginning_has_no_time_to_be_judged_at() -> None:
    history = history_of(encounter("now", None, None))
    assert as_of(history, "now", facts_of(history)) is None


LATER = st.integers(1, 400_000).map(lambda minutes: text(ADMITTED + timedelta(days=4, minutes=minutes)))
LATER_EVENTS = st.lists(
    st.one_of(
        st.builds(lambda at, n: condition(f"later{n}", at, code=f"x{n}"), LATER, st.integers(0, 9)),
        st.builds(lambda at, n: medication_request(f"later{n}", at, code=f"x{n}"), LATER, st.integers(0, 9)),
        st.builds(
            lambda at, n, class_: encounter(f"later{n}", at, None, class_=class_),
            LATER,
            st.integers(0, 9),
            st.sampled_from(["IMP", "EMER", "AMB"]),
        ),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(LATER_EVENTS)
def test_what_happens_after_the_discharge_changes_no_feature(later: list[dict[str, Any]]) -> None:
    past = [patient(), condition(), medication_request(), stay("before", days(-9), days(-5))]
    assert features_of(*past, *later) == features_of(*past)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(
        [patient(), condition(), medication_request(), stay("a", days(-9), days(-5)), stay("b", days(-3), days(-2))]
    )
)
def test_features_do_not_depend_on_the_order_of_what_is_known(resources: list[dict[str, Any]]) -> None:
    features = features_of(*resources)
    assert features.vector() == (73.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0, 4.0, 0.0)
