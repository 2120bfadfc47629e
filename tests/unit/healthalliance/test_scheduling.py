"""Training again and again: at a fixed pace, past failures, until interrupted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from healthalliance.scheduling import interval, run_every
from schemas.errors import ConfigurationError, TrainingUnderWayError

HOUR = timedelta(hours=1)


class Time:
    """A clock that sleeping and working move; interrupts the sleep after so many."""

    def __init__(self, sleeps: int) -> None:
        self.now, self.slept, self._left = 0.0, list[float](), sleeps

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt

    def clock(self) -> float:
        return self.now


def runs(time: Time, work: Callable[[], None]) -> list[str]:
    said: list[str] = []
    run_every(HOUR, work, said.append, time.sleep, time.clock)
    return said


@pytest.mark.parametrize(
    ("text", "expected"), [("30m", timedelta(minutes=30)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))]
)
def test_an_interval_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert interval(text) == expected


@pytest.mark.parametrize("text", ["", "24", "0h", "-1h", "1.5h", "1w", "h", "1 h", "１h", "1h\n"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--every"):
        interval(text)


def test_runs_begin_an_interval_apart_however_long_they_take() -> None:
    time, began = Time(sleeps=3), list[float]()

    def work() -> None:
        began.append(time.now)
        time.now += 600

    assert runs(time, work) == ["Stopped."]
    assert began == [0, 3600, 7200]
    assert time.slept == [3000, 3000, 3000]


def test_a_run_that_takes_longer_than_the_interval_is_followed_at_once_and_by_one_only() -> None:
    time = Time(sleeps=2)

    def work() -> None:
        time.now += 9000

    runs(time, work)
    assert time.slept == [0, 0]


def test_a_run_that_fails_is_told_in_a_line_and_tried_again() -> None:
    failures: list[Exception] = [TrainingUnderWayError("Another run."), ValueError("Patient/123")]

    def work() -> None:
        if failures:
            raise failures.pop(0)

    said = runs(Time(sleeps=3), work)
    assert said == [
        "Another run. Trying again in 1:00:00.",
        "The run failed (ValueError). Trying again in 1:00:00.",
        "Stopped.",
    ]


def test_an_interrupt_during_a_run_ends_all() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    time = Time(sleeps=1)
    assert runs(time, interrupted) == ["Stopped."]
    assert time.slept == []
