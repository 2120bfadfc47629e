"""A short form of the fault scenarios; `make faults` runs them at their full sizes.

They share one stack. What was published before is judged again each time. The others: test_in_turn, test_own_stacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.short_form import Ground, shared_ground, short

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared() -> Iterator[Ground]:
    yield from shared_ground()


# In order comes first: it compares with patients of whom nothing is known before.
@pytest.mark.parametrize(("name", "scale"), [("disorder", 0.03), ("poison", 0.01)])
def test_nothing_is_violated(shared: Ground, name: str, scale: float) -> None:
    assert shared.try_out(short(name), scale)["violations"] == {}


def test_a_worker_may_die_at_every_step_and_repeats_are_the_same_record(shared: Ground) -> None:
    found = shared.try_out(replace(short("every-step"), events=40_000), 1 / 20)
    assert found["violations"] == {}
    assert found["verdict"]["repeats"] > 0, "no death came between a delivery and its acknowledgement"
