"""How long a receiver that fails is left alone, and what is written to people."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from healthalliance.alerting.service import retry_after
from schemas.alert import Told, alert_id, in_words, subject, text
from schemas.feature_words import Language
from schemas.messages import Band

NOW = datetime(2025, 3, 3, 8, tzinfo=UTC)
TOLD = Told(
    alert_id="a", institution="ukhd", patient_pseudonym="p", encounter_pseudonym="e", record_id="r", band=Band.HIGH,
    probability=0.41, features={"num_conditions": 4.0}, contributions={"num_conditions": 0.06, "age_years": -0.1},
    scored_at=NOW, decided_at=NOW, attempts=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("attempts", "asked_s", "seconds"),
    [(1, 0, 2), (3, 0, 8), (8, 0, 256), (9, 0, 300), (100_000, 0, 300), (1, 30, 30), (1, 10**9, 3600)],
)
def test_a_receiver_is_left_alone_for_longer_each_time_within_bounds(
    attempts: int, asked_s: float, seconds: int
) -> None:
    assert retry_after(attempts, asked_s).total_seconds() == seconds


def test_an_alert_is_named_by_whom_it_is_for_and_the_score_that_crossed() -> None:
    names = {
        alert_id(*of) for of in [("ukhd", "email", "r"), ("ukhd", "email", "s"), ("ukhd", "slack", "r"),
                                 ("dkfz", "email", "r"), ("ukhd", "email", "r")]
    }  # fmt: skip
    assert len(names) == 4


@pytest.mark.parametrize(
    ("language", "title", "line"),
    [("en", "Readmission risk high at UKHD", "Stay: e"), ("de", "Wiederaufnahmerisiko hoch in UKHD", "Fall: e")],
)
def test_people_read_it_in_their_language(language: Language, title: str, line: str) -> None:
    alert = in_words(TOLD, language)
    assert subject(alert, language) == title
    assert line in text(alert, language).splitlines()
    assert alert.link is None


def test_it_links_to_the_stay_on_the_page_that_is_set() -> None:
    alert = in_words(TOLD, "en", "https://worklist.example/ukhd")
    assert alert.link == "https://worklist.example/ukhd#e"
    assert text(alert, "en").splitlines()[-1] == "Worklist: https://worklist.example/ukhd#e"


def test_without_facts_that_raise_it_there_is_no_list_of_them() -> None:
    alert = in_words(replace(TOLD, features={}, contributions={}), "en")
    assert alert.reasons == ()
    assert "raises" not in text(alert, "en")
