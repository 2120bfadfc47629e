"""Faults of all kinds that need no stack of their own, one after the other, on one stack under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.short_form import EVENTS_PER_S, SMALL_DISKS, Ground, shared_ground, short
from tests.faults.trial import Scenario, Trial

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

# Whose faults strike in turn while the load goes on, and how often each: all that need no stack of their own.
_IN_TURN = {
    "worker-kill": 1,
    "rolling": 1,
    "zombie": 1,
    "rebalance-storm": 1,
    "postgres": 5,
    "registry": 2,
    **({"disk-full": 2} if SMALL_DISKS else {}),
    "soak": 1,
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Ground]:
    yield from shared_ground()


def test_faults_of_all_kinds_in_turn_violate_nothing(shared: Ground) -> None:
    assert shared.try_out(in_turn(), 0.01)["violations"] == {}


def in_turn() -> Scenario:
    """Put the attacks of several scenarios, and what each must hold, into one."""
    parts = [(short(name), strikes) for name, strikes in _IN_TURN.items()]

    def attack(trial: Trial) -> None:
        for one, strikes in parts:
            trial.strikes = strikes
            one.attack(trial)
        trial.strikes = sum(strikes for _, strikes in parts)

    return Scenario(
        "in-turn",
        "faults of all kinds in turn: all exact",
        events=60_000,
        strikes=1,
        attack=attack,
        events_per_s=EVENTS_PER_S,
        most={figure: limit for one, _ in parts for figure, limit in one.most.items()},
        settings={"model_poll_s": 2.0},
        check=lambda trial: {what: number for one, _ in parts for what, number in one.check(trial).items()},
    )
