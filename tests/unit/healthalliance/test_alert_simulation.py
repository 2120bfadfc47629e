"""What a budget would have meant: the days, who is sent, what is caught."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthalliance.alerting.simulation import Catch, Moment, Simulation, simulate
from schemas.messages import Band
from tests.unit.healthalliance.alert_scores import a_score

DAY = datetime(2025, 3, 3, 0, tzinfo=UTC)  # 01:00 in Berlin
HOUR = timedelta(hours=1)


def at(hours: float, encounter: str, probability: float | None = None, *, band: str | None = "high") -> Moment:
    moment = DAY + hours * HOUR
    offset = int(hours * 3600) + 10_000_000
    return Moment(moment, a_score(offset, band, encounter=encounter, probability=probability, at=moment))


def run(*moments: Moment, budget: int | None = None, **readmitted: bool) -> Simulation:
    ordered = sorted(moments, key=lambda one: one.at)
    return simulate(ordered, Band.HIGH, budget, DAY, readmitted)


def test_without_a_budget_all_crossings_are_sent() -> None:
    found = run(at(1, "a"), at(2, "b"), at(2.5, "b", 0.5), at(30, "c"), a=True, b=False)
    assert [(one.crossings, one.sent, one.left) for one in found.days] == [(2, 2, 0), (1, 1, 0)]
    assert found.catch == found.unlimited == Catch(known=2, readmitted=1, alerted=2, caught=1)
    assert found.day_end is None


def test_a_right_goes_to_the_highest_that_waits_and_the_rest_waits_on() -> None:
    # One alert a day: its right arises at noon in Berlin, 11:00 UTC.
    found = run(at(1, "a", 0.4), at(2, "b", 0.6), at(12, "c", 0.9), at(40, "d", 0.1, band="low"), budget=1,
                a=True, b=True, c=True)  # fmt: skip
    first, second = found.days
    assert (first.crossings, first.sent, first.left) == (3, 1, 2)
    assert (first.lowest_sent, first.highest_left) == (0.6, 0.9)
    assert (second.sent, second.lowest_sent, second.highest_left) == (1, 0.9, 0.4)
    assert found.sent == 2
    assert found.catch == Catch(known=3, readmitted=3, alerted=2, caught=2)
    assert found.unlimited.caught == 3


def test_a_choice_at_the_days_end_would_have_seen_what_came_after_noon() -> None:
    found = run(at(1, "a", 0.4), at(12, "b", 0.9), budget=1, a=False, b=True)
    assert found.catch == Catch(known=2, readmitted=1, alerted=1, caught=0)
    assert found.day_end == Catch(known=2, readmitted=1, alerted=1, caught=1)


def test_rights_that_nobody_takes_are_kept_within_the_day_only() -> None:
    # Rights at 5:00, 11:00, 17:00 and 23:00 UTC less an hour or two; three are there at 20:00, none of the day before.
    morning = run(*(at(44, name, 0.5 + number / 10) for number, name in enumerate("abcd")), budget=4)
    assert [(one.sent, one.left) for one in morning.days] == [(4, 0)]
    early = run(at(0.1, "x"), *(at(24.1, name) for name in "abcdefgh"), budget=4)
    assert [(one.sent, one.left) for one in early.days] == [(1, 0), (4, 4)]


def test_an_alert_that_a_newer_score_outdates_is_never_sent() -> None:
    found = run(at(1, "a"), at(2, "a", 0.01, band="low"), at(3, "b"), at(4, "b", band=None), budget=1, a=True)
    assert [(one.crossings, one.sent, one.left) for one in found.days] == [(2, 0, 0)]


def test_what_stood_before_is_not_sent() -> None:
    found = run(at(-30, "a"), at(1, "a", 0.5), at(2, "b"), a=True, b=False)
    assert [one.sent for one in found.days] == [1]
    assert found.catch == Catch(known=2, readmitted=1, alerted=1, caught=0)


def test_shares_are_of_what_is_known() -> None:
    catch = Catch(known=10, readmitted=4, alerted=5, caught=3)
    assert (catch.share_caught, catch.share_right) == (0.75, 0.6)
    assert (Catch(0, 0, 0, 0).share_caught, Catch(0, 0, 0, 0).share_right) == (None, None)


def test_no_scores_no_days() -> None:
    assert run(budget=3).days == ()


several = st.lists(
    st.tuples(st.integers(0, 2000), st.sampled_from("abcdefghij"), st.floats(0, 1), st.sampled_from(["low", "high"])),
    max_size=40, unique_by=lambda one: (one[0], one[1]),
)  # fmt: skip


@given(several, st.integers(1, 6))
def test_a_budget_is_never_exceeded_and_a_large_one_is_none(
    scores: list[tuple[int, str, float, str]], budget: int
) -> None:
    moments = [at(minute / 10, name, risk, band=band) for minute, name, risk, band in scores]
    assert all(day.sent <= budget for day in run(*moments, budget=budget).days)
    assert run(*moments, budget=budget).unlimited == run(*moments).catch


@pytest.mark.parametrize("budget", [1, 3])
def test_alerts_that_are_left_wait_for_a_week(budget: int) -> None:
    later = [at(24 * day, f"low-{day}", 0.1, band="low") for day in range(1, 20)]
    found = run(*(at(1, f"e{number}") for number in range(30)), *later, budget=budget)
    assert found.sent == 7 * budget
    assert found.days[-1].left == 0
