"""FHIR's dates and times: partial ones, leap seconds, days that are none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.history import EncounterFacts
from schemas.intake.fhir_time import parse_date, parse_date_time
from schemas.rejection import Reason
from tests.unit.schemas.fhir_events import encounter, findings, parse

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "earliest", "latest"),
    [
        ("2024", "2023-12-31T23:00:00", "2024-12-31T22:59:59.999999"),
        ("2024-02", "2024-01-31T23:00:00", "2024-02-29T22:59:59.999999"),
        ("2024-12", "2024-11-30T23:00:00", "2024-12-31T22:59:59.999999"),
        ("2024-07-01", "2024-06-30T22:00:00", "2024-07-01T21:59:59.999999"),
        ("2024-07-01T00:00:00Z", "2024-07-01T00:00:00", "2024-07-01T00:00:00"),
        ("2024-07-01T00:00:00.5+02:00", "2024-06-30T22:00:00.500000", "2024-06-30T22:00:00.500000"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59", "2016-12-31T23:59:59"),
        ("2016-12-31T23:59:60.25-01:00", "2017-01-01T00:59:59.250000", "2017-01-01T00:59:59.250000"),
    ],
)
def test_a_time_spans_all_that_its_precision_can_mean(text: str, earliest: str, latest: str) -> None:
    moment = parse_date_time(text, BERLIN)
    assert moment is not None
    assert [str(one.isoformat()) for one in moment] == [f"{earliest}+00:00", f"{latest}+00:00"]


@pytest.mark.parametrize(
    "text",
    ["", "0000", "0000-01", "0000-01-01", "2024-13", "2024-00", "2024-02-30", "2023-02-29", "2024-1-1", "24",
     "20240101", "2024-02-30T10:00:00Z", "2024-01-01T25:00:00Z", "2024-01-01T10:61:00Z", "0001-01-01T00:00:00+14:00",
     "x"],
)  # fmt: skip
def test_what_is_no_day_of_the_calendar_is_no_time(text: str) -> None:
    assert parse_date_time(text, BERLIN) is None


def test_partial_birth_dates_are_their_first_day() -> None:
    assert [parse_date(text) for text in ("1950", "1950-06", "1950-06-30")] == [
        date(1950, 1, 1),
        date(1950, 6, 1),
        date(1950, 6, 30),
    ]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}(T[0-9:.Z+-]{0,16})?)?)?", fullmatch=True))
def test_no_text_makes_reading_a_time_raise(text: str) -> None:
    moment = parse_date_time(text, BERLIN)
    assert moment is None or moment.earliest <= moment.latest
    parse_date(text)


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_a_full_time_is_read_as_written(local: datetime, minutes: int) -> None:
    sign, rest = "-" if minutes < 0 else "+", abs(minutes)
    text = f"{local.isoformat()}{sign}{rest // 60:02}:{rest % 60:02}"
    moment = parse_date_time(text, BERLIN)
    assert moment is not None
    assert moment.earliest == local.replace(tzinfo=UTC) - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-03", "2024-03-05"),
        ("2024-03-05T10:00:00Z", "2024-03-05"),
        ("2024-03-05", "2024-03-05"),
        ("2024", "2024-01"),
    ],
)
def test_periods_that_may_be_in_order_are_and_never_end_before_they_start(start: str, end: str) -> None:
    parsed = parse(encounter(start=start, end=end))
    assert findings(parsed) == []
    facts = parsed.entries[0].facts
    assert isinstance(facts, EncounterFacts)
    assert facts.started is not None
    assert facts.ended is not None
    assert facts.started <= facts.ended


@pytest.mark.parametrize(("start", "end"), [("2024-03-06", "2024-03-05"), ("2025", "2024"), ("2024-04-01", "2024-03")])
def test_periods_that_cannot_be_in_order_are_refused(start: str, end: str) -> None:
    assert findings(parse(encounter(start=start, end=end))) == [(Reason.PERIOD_REVERSED, "Encounter.period")]


@pytest.mark.parametrize("time", ["2024-03-05T23:59:60Z", "2024-03-05T23:59:59.123456789Z"])
def test_leap_seconds_and_nanoseconds_pass_all_stages(time: str) -> None:
    assert findings(parse(encounter(end=time))) == []
