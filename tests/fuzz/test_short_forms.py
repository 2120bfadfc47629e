"""Each target of `make fuzz` for moments, and that what it is there to find is found."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS, Draw


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_raises_only_what_it_promises(name: str) -> None:
    assert fuzz(TARGETS[name], examples=100, seed_=1).inputs >= 50


def test_what_raises_anything_else_is_found() -> None:
    def breaks(draw: Draw) -> None:
        assert draw(st.integers(0, 100)) < 90

    with pytest.raises(AssertionError):
        fuzz(breaks, examples=200, seed_=1)


def test_what_holds_memory_is_found() -> None:
    held = []

    def holds(draw: Draw) -> None:
        held.append(bytes([draw(st.integers(1, 255))]) * 40 * 2**20)

    with pytest.raises(AssertionError, match="grew"):
        fuzz(holds, examples=20, seed_=1)
