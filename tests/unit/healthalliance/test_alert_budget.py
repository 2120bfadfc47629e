"""Whose turn it is: marks, and a day's budget in Berlin."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthalliance.alerting.budget import DAYS_OF, WAITS_AT_MOST, Held, day_begin, right_at, rights, turn
from schemas.alert import Waiting
from schemas.messages import Band

NOW = datetime(2025, 3, 3, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

a_moment = st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))


def waits(name: str, probability: float = 0.4, /, **more: Any) -> Waiting:
    fields: dict[str, Any] = {"band": Band.HIGH, "decided_at": NOW - HOUR, "due_at": NOW - HOUR} | more
    return Waiting(alert_id=name, probability=probability, **fields)


def given_out(*waiting: Waiting, free: int | None = None, now: datetime = NOW) -> list[str]:
    return [one.alert_id for one in turn(waiting, now, free).give]


@pytest.mark.parametrize(
    ("why", "more"),
    [
        (Held.SNOOZED, {"snoozed_until": NOW + HOUR}),
        (Held.ACKNOWLEDGED, {"acknowledged": Band.HIGH}),
        (Held.ACKNOWLEDGED, {"acknowledged": Band.HIGH, "band": Band.MEDIUM}),
        (Held.RETRIED, {"due_at": NOW + HOUR}),
        (Held.RETRIED, {"claimed_until": NOW + HOUR}),
    ],
)
def test_an_alert_is_held(why: Held, more: dict[str, Any]) -> None:
    chosen = turn([waits("a", **more)], NOW, None)
    assert (chosen.give, chosen.held) == ((), Counter({why: 1}))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"snoozed_until": NOW},
        {"acknowledged": Band.MEDIUM},
        {"due_at": NOW},
        {"claimed_until": NOW},
    ],
)
def test_an_alert_is_due(more: dict[str, Any]) -> None:
    assert given_out(waits("a", **more)) == ["a"]


def test_the_highest_come_first_and_only_as_many_as_are_free() -> None:
    queue = [waits("low", 0.3), waits("top", 0.9), waits("mid", 0.5)]
    assert given_out(*queue) == ["top", "mid", "low"]
    assert given_out(*queue, free=2) == ["top", "mid"]
    assert given_out(*queue, free=0) == []
    assert turn(queue, NOW, 2).held == Counter({Held.BUDGET: 1})


def test_one_that_has_its_right_needs_none_to_be_tried_again() -> None:
    assert given_out(waits("new", 0.9), waits("again", 0.2, given_at=NOW - HOUR), free=0) == ["again"]


def test_one_that_waited_too_long_for_its_turn_leaves_the_queue_of_a_budget_alone() -> None:
    old = waits("old", decided_at=NOW - WAITS_AT_MOST - HOUR)
    assert [one.alert_id for one in turn([old], NOW, 1).expired] == ["old"]
    assert given_out(old) == ["old"]
    assert given_out(waits("given", decided_at=NOW - 2 * WAITS_AT_MOST, given_at=NOW - HOUR), free=0) == ["given"]


def test_a_snooze_is_no_waiting_for_a_turn() -> None:
    assert given_out(waits("a", decided_at=NOW - 2 * WAITS_AT_MOST, snoozed_until=NOW - HOUR), free=1) == ["a"]


# --- the day


@pytest.mark.parametrize(
    ("at", "length_h"),
    [("2025-03-03", 24), ("2025-03-30", 23), ("2025-10-26", 25)],
)
def test_a_day_is_berlins_also_when_clocks_change(at: str, length_h: int) -> None:
    begin = datetime.fromisoformat(at).replace(tzinfo=DAYS_OF)
    last = begin.timestamp() + length_h * 3600 - 1
    assert day_begin(datetime.fromtimestamp(last, UTC)) == begin
    assert day_begin(datetime.fromtimestamp(last + 1, UTC)) > begin
    assert rights(24, datetime.fromtimestamp(last, UTC)) == 24
    assert [rights(1, datetime.fromtimestamp(begin.timestamp() + share * length_h * 3600, UTC))
            for share in (0.0, 0.49, 0.51)] == [0, 0, 1]  # fmt: skip


@given(st.integers(1, 500), a_moment, st.data())
def test_each_right_arises_once_in_its_day(budget: int, moment: datetime, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, budget - 1))
    at = right_at(budget, number, moment)
    assert day_begin(at) == day_begin(moment)
    assert rights(budget, at - timedelta(milliseconds=5)) == number
    assert rights(budget, at + timedelta(milliseconds=5)) == number + 1


@given(st.integers(0, 500), a_moment)
def test_rights_never_exceed_the_budget(budget: int, moment: datetime) -> None:
    assert 0 <= rights(budget, moment) <= budget
