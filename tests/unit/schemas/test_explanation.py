"""Explanations as clinicians read them, in both languages."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.explanation import OTHER_FACTS, cause, headline, main_reasons, steps
from schemas.feature_words import Language, age_band, percent, phrase
from schemas.features import FEATURE_NAMES
from schemas.messages import Band, Cause

FEATURES: dict[str, float | None] = {
    "age_years": 81.0,
    "gender_encoded": 0.0,
    "num_conditions": 4.0,
    "num_medications": 1.0,
    "recent_encounters": 0.0,
    "prior_inpatient_stays_365d": 3.0,
    "prior_emergency_visits_180d": 0.0,
    "length_of_stay_days": 2.0,
    "emergency_admission": 1.0,
}
LANGUAGES: tuple[Language, ...] = ("en", "de")
languages = st.sampled_from(LANGUAGES)


def sentences(
    contributions: dict[str, float], baseline: float, probability: float, language: Language = "en"
) -> list[str]:
    return [step.sentence for step in steps(FEATURES, contributions, baseline, probability, language)]


def test_the_largest_effect_comes_first_and_each_sentence_begins_where_the_one_before_ends() -> None:
    contributions = {"length_of_stay_days": -0.03, "prior_inpatient_stays_365d": 0.13, "num_conditions": 0.02}
    assert sentences(contributions, 0.11, 0.23) == [
        "3 inpatient stays in the last year raise the risk from 11 % to 24 %.",
        "The stay of 2 days lowers it from 24 % to 21 %.",
        "4 active conditions raise it from 21 % to 23 %.",
    ]
    assert sentences(contributions, 0.11, 0.23, "de") == [
        "3 stationäre Aufenthalte im letzten Jahr erhöhen das Risiko von 11 % auf 24 %.",
        "Der Aufenthalt von 2 Tagen senkt es von 24 % auf 21 %.",
        "4 aktive Diagnosen erhöhen es von 21 % auf 23 %.",
    ]


def test_what_moves_the_risk_little_is_told_together_at_the_end() -> None:
    contributions = {"age_years": 0.1, "num_conditions": 0.004, "gender_encoded": 0.003, "recent_encounters": 0.004}
    told = steps(FEATURES, contributions, 0.1, 0.211)
    assert [step.feature for step in told] == ["age_years", OTHER_FACTS]
    assert told[1].sentence == "Other facts raise it from 20 % to 21 %."
    assert told[1].contribution == pytest.approx(0.011)
    assert sentences(contributions, 0.1, 0.211, "de")[1] == "Weitere Angaben erhöhen es von 20 % auf 21 %."


def test_one_small_effect_alone_is_named() -> None:
    contributions = {"age_years": 0.1, "gender_encoded": 0.004}
    assert sentences(contributions, 0.1, 0.204)[1] == "The female gender leaves it at 20 %."
    assert sentences(contributions, 0.1, 0.204, "de")[1] == "Weibliches Geschlecht belässt es bei 20 %."


def test_decimals_are_shown_where_whole_percentages_would_not_differ() -> None:
    contributions = {"age_years": 0.2, "num_conditions": 0.006}
    assert sentences(contributions, 0.036, 0.242) == [
        "The age of 81 years raises the risk from 3.6 % to 23.6 %.",
        "4 active conditions raise it from 23.6 % to 24.2 %.",
    ]
    assert sentences(contributions, 0.036, 0.242, "de")[0] == (
        "Das Alter von 81 Jahren erhöht das Risiko von 3,6 % auf 23,6 %."
    )


def test_no_risk_below_nothing_is_shown_where_the_largest_effect_leads_there() -> None:
    told = steps(FEATURES, {"age_years": -0.3, "num_conditions": 0.25}, 0.11, 0.06)
    assert [(step.before, step.after) for step in told] == [(0.11, 0.0), (0.0, 0.06)]


@pytest.mark.parametrize(("baseline", "probability"), [(None, 0.1), (0.1, None), (float("nan"), 0.1)])
def test_a_score_without_a_probability_has_no_steps(baseline: float | None, probability: float | None) -> None:
    assert steps(FEATURES, {"age_years": 0.1}, baseline, probability) == ()


@pytest.mark.parametrize(
    ("name", "value", "english", "german"),
    [
        ("age_years", None, "The unknown age", "Ein unbekanntes Alter"),
        ("age_years", 0.0, "The age under 1 year", "Das Alter unter 1 Jahr"),
        ("age_years", 1.0, "The age of 1 year", "Das Alter von 1 Jahr"),
        ("age_years", 81.0, "The age of 81 years", "Das Alter von 81 Jahren"),
        ("gender_encoded", 0.0, "The female gender", "Weibliches Geschlecht"),
        ("gender_encoded", 1.0, "The male gender", "Männliches Geschlecht"),
        ("gender_encoded", 2.0, "The other or unknown gender", "Anderes oder unbekanntes Geschlecht"),
        ("num_conditions", 0.0, "No active conditions", "Keine aktive Diagnose"),
        ("num_conditions", 1.0, "1 active condition", "1 aktive Diagnose"),
        ("num_medications", 12.0, "12 active medications", "12 aktuelle Medikamente"),
        ("recent_encounters", 0.0, "No encounters in the last year", "Kein Fall im letzten Jahr"),
        ("recent_encounters", 2.0, "2 encounters in the last year", "2 Fälle im letzten Jahr"),
        (
            "prior_inpatient_stays_365d",
            1.0,
            "1 inpatient stay in the last year",
            "1 stationärer Aufenthalt im letzten Jahr",
        ),
        (
            "prior_emergency_visits_180d",
            2.0,
            "2 emergency visits in the last 180 days",
            "2 Notfallbesuche in den letzten 180 Tagen",
        ),
        ("length_of_stay_days", 0.4, "The stay of less than a day", "Der Aufenthalt von weniger als einem Tag"),
        ("length_of_stay_days", 1.04, "The stay of 1 day", "Der Aufenthalt von 1 Tag"),
        ("length_of_stay_days", 3.25, "The stay of 3.2 days", "Der Aufenthalt von 3,2 Tagen"),
        ("emergency_admission", 1.0, "The emergency admission", "Die Aufnahme als Notfall"),
        ("emergency_admission", 0.0, "The non-emergency admission", "Die Aufnahme ohne Notfall"),
    ],
)
def test_a_fact_reads_well_whatever_its_value(name: str, value: float | None, english: str, german: str) -> None:
    assert phrase(name, value).subject == english
    assert phrase(name, value, "de").subject == german


any_values = st.none() | st.floats() | st.sampled_from([0.0, 1.0, 2.0])
any_points = st.floats(-1, 1) | st.floats()


@given(
    st.dictionaries(st.sampled_from(FEATURE_NAMES) | st.text(max_size=8), any_values),
    st.dictionaries(st.sampled_from(FEATURE_NAMES) | st.text(max_size=8), any_points),
    st.floats(0, 1),
    st.floats(0, 1),
    languages,
)
def test_steps_chain_from_the_baseline_to_the_probability_whatever_the_numbers(
    features: dict[str, float | None],
    contributions: dict[str, float],
    baseline: float,
    probability: float,
    language: Language,
) -> None:
    told = steps(features, contributions, baseline, probability, language)
    if not told:
        assert probability == pytest.approx(baseline, abs=1e-6)
        return
    assert (told[0].before, told[-1].after) == (baseline, probability)
    assert all(one.after == following.before for one, following in itertools.pairwise(told))
    assert all(0 <= step.after <= 1 for step in told)
    own = [abs(step.contribution) for step in told if step.feature != OTHER_FACTS]
    assert own == sorted(own, reverse=True)
    assert not [step.sentence for step in told if "nan" in step.sentence.replace(step.feature, "").lower()]


@given(st.fixed_dictionaries({name: st.floats(-0.1, 0.1) for name in FEATURE_NAMES}), st.floats(0.2, 0.4), languages)
def test_the_two_numbers_of_a_sentence_are_those_of_its_neighbours(
    contributions: dict[str, float], baseline: float, language: Language
) -> None:
    probability = min(max(baseline + sum(contributions.values()), 0.0), 1.0)
    told = steps(FEATURES, contributions, baseline, probability, language)
    shown = [[part for part in _numbers(step.sentence) if part] for step in told]
    assert all(one[-1] == following[0] for one, following in itertools.pairwise(shown))


def _numbers(sentence: str) -> list[str]:
    return [before.rpartition(" ")[2] for before in sentence.split(" %")[:-1]]


@pytest.mark.parametrize(
    ("probability", "digits", "text"),
    [(0.0, 0, "0 %"), (0.002, 0, "<1 %"), (0.9999, 0, ">99 %"), (1.0, 0, "100 %"), (0.0004, 1, "<0,1 %"),
     (0.245, 1, "24,5 %")],
)  # fmt: skip
def test_no_percentage_claims_certainty_that_is_none(probability: float, digits: int, text: str) -> None:
    assert percent(probability, "de", digits) == text


@pytest.mark.parametrize(
    ("age", "band"), [(0.0, "0–9"), (79.9, "70–79"), (80.0, "80–89"), (90.0, "90+"), (112.0, "90+"), (None, "unknown")]
)
def test_an_age_is_shown_as_its_decade_and_the_very_old_together(age: float | None, band: str) -> None:
    assert age_band(age) == band


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_band_and_every_cause_has_words(language: Language) -> None:
    assert len({headline(0.2, band, language) for band in (*Band, None)}) == len(Band) + 1
    assert len({cause(reason, language) for reason in Cause}) == len(Cause)
    assert not {cause(reason, language) for reason in Cause} & set(Cause)
    assert headline(None, None, language).count(".") == 1


# --- reasons in short


def test_the_facts_that_raise_the_risk_most_are_named_most_first() -> None:
    points = {"age_years": 0.02, "num_conditions": 0.051, "length_of_stay_days": 0.004, "recent_encounters": 0.003}
    assert main_reasons(FEATURES, points) == [
        "4 active conditions (+5.1)", "age of 81 years (+2.0)", "stay of 2 days (+0.4)",
    ]  # fmt: skip
    assert main_reasons(FEATURES, points, 1, "de") == ["4 aktive Diagnosen (+5,1)"]


def test_what_lowers_the_risk_or_does_nothing_is_no_reason() -> None:
    assert main_reasons(FEATURES, {"age_years": -0.3, "num_conditions": 0.0}) == []


@given(
    st.fixed_dictionaries({name: st.floats(0, 1e6) | st.none() for name in FEATURE_NAMES}),
    st.fixed_dictionaries({name: st.floats(-1, 1) for name in FEATURE_NAMES}),
    st.integers(0, 12),
)
def test_there_are_as_many_reasons_as_asked_for_or_as_there_are(
    features: dict[str, float | None], points: dict[str, float], most: int
) -> None:
    assert len(main_reasons(features, points, most)) == min(most, sum(value > 0 for value in points.values()))
