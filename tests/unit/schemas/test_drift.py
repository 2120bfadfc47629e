"""Reference bins and the stability index: against the formula, with ties, gaps, constants and few values."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.drift import MIN_STAYS, Bins, bins, counts, drift, psi, reference
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.model import ModelCard
from tests.unit.streams.batches import CARD

RANDOM = np.random.default_rng(5)


def floats(values: object) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def index(expected: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    reference_ = bins(expected)
    found = psi(reference_.shares, counts(now, reference_.edges).tolist())
    assert found is not None
    return found


def test_the_same_values_have_not_drifted() -> None:
    values = floats(RANDOM.gamma(2, 3, 5000))
    assert index(values, values) == pytest.approx(0, abs=1e-12)


def test_a_sample_of_the_same_distribution_seems_stable_and_a_shifted_one_does_not() -> None:
    values = floats(RANDOM.normal(70, 10, 20_000))
    assert index(values, floats(RANDOM.normal(70, 10, 2000))) < 0.02
    # Half a deviation apart: 0.25, their symmetric Kullback-Leibler divergence, of which bins lose some.
    assert index(values, floats(RANDOM.normal(75, 10, 20_000))) == pytest.approx(0.25, abs=0.03)


def test_the_index_is_the_sum_over_the_bins() -> None:
    expected = 0.25 * np.log(0.75 / 0.5) * 1 + (-0.25) * np.log(0.25 / 0.5)
    assert psi((0.5, 0.5), [300, 100]) == pytest.approx(expected)


def test_deciles_cut_a_smooth_feature_into_tenths_and_one_bin_is_for_the_unknown() -> None:
    shares = bins(floats(np.arange(1, 1001))).shares
    assert len(shares) == 11
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([0.1] * 10, abs=0.002)


def test_values_that_went_missing_are_a_drift() -> None:
    values = floats(RANDOM.uniform(20, 90, 1000))
    gone = values.copy()
    gone[:300] = UNKNOWN
    assert index(values, gone) > 0.25


@pytest.mark.parametrize("constant", [0.0, 1.0, UNKNOWN])
def test_a_feature_that_is_always_the_same_is_stable_until_it_is_not(constant: float) -> None:
    values = floats([constant] * 500)
    assert index(values, values[:300]) == pytest.approx(0, abs=1e-9)
    for other in (constant + 0.5, constant + 5.0):
        assert index(values, floats([other] * 500)) > 1


def test_what_fills_a_decile_is_told_from_what_lies_above_and_below_it() -> None:
    values = floats([0.0] * 100 + [1.0] * 300 + [2.0] * 100)
    assert [share for share in bins(values).shares if share] == [0.2, 0.6, 0.2]


def test_a_group_of_fewer_than_ten_is_not_told_of() -> None:
    shares = bins(floats([0.0] * 150 + [1.0] * 141 + [2.0] * 9)).shares
    assert [share for share in shares if share] == [0.5, 0.47]


def test_of_few_stays_nothing_is_said() -> None:
    assert psi((0.5, 0.5), [MIN_STAYS - 1, 0]) is None
    assert psi((0.5, 0.5), [MIN_STAYS, 0]) is not None
    assert drift({"a": Bins((1.0,), (0.5, 0.5))}, {"a": [1, 1]}) == {}


@given(st.lists(st.floats(-1, 1e6, width=32), min_size=1, max_size=60))
def test_edges_rise_and_every_value_is_in_one_bin(values: list[float]) -> None:
    found = bins(floats(values * 10))
    assert list(found.edges) == sorted(set(found.edges))
    assert len(found.shares) == len(found.edges) + 1
    assert sum(found.shares) == pytest.approx(1)


def test_each_institution_has_its_own_reference_unless_it_is_too_small_and_it_travels_with_the_card() -> None:
    rows = floats(RANDOM.uniform(0, 9, (3 * MIN_STAYS, len(FEATURE_NAMES))))
    whose = np.array(["dkfz"] * (2 * MIN_STAYS) + ["ukhd"] * (MIN_STAYS - 1) + ["embl"], dtype=np.str_)
    found = reference(rows, whose)
    assert {name: tuple(one) for name, one in found.items()} == {"dkfz": FEATURE_NAMES}
    card = msgspec.structs.replace(CARD, reference=found)
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card


def test_a_card_from_before_there_was_a_reference_still_loads() -> None:
    old = msgspec.json.decode(msgspec.json.encode(CARD))
    del old["reference"]
    assert msgspec.json.decode(msgspec.json.encode(old), type=ModelCard).reference is None
