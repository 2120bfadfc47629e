"""Scores and their reasons: contributions add up, calibration keeps the order, bands cover everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.messages import Band
from schemas.model import Calibration, Floats, Isotonic, ModelCard, Sigmoid, Thresholds, explain

WIDTH = len(FEATURE_NAMES)
CARD = ModelCard(
    feature_names=FEATURE_NAMES,
    feature_set=FEATURE_SET,
    raw_baseline=0.4,
    calibration=Sigmoid(slope=5.0, intercept=-3.0),
    thresholds=Thresholds(medium=0.1, high=0.3),
)


@dataclass(frozen=True)
class Told:
    """A model that is told its raw contributions."""

    raw: Floats
    card: ModelCard = CARD
    name: str = "told"
    version: str = "1"
    digest: str = ""
    registered_at: float | None = None

    def contributions(self, rows: NDArray[np.float32]) -> Floats:
        return self.raw


def explained(raw: Floats, card: ModelCard = CARD) -> tuple[Floats, float, Floats]:
    rows = np.zeros(raw.shape, dtype=np.float32)
    result = explain(Told(raw, card), rows)
    return result.probability, result.baseline, result.contributions


SHARES = st.floats(0, 1)
SIGMOIDS = st.builds(Sigmoid, slope=st.floats(0.1, 12), intercept=st.floats(-8, 4))
ISOTONICS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1000)), min_size=1, max_size=8).map(
    lambda knots: Isotonic(
        tuple(raw / 100 for raw in sorted({raw for raw, _ in knots})),
        tuple(sorted(value / 1000 for _, value in knots))[: len({raw for raw, _ in knots})],
    )
)
CALIBRATIONS = SIGMOIDS | ISOTONICS
CARDS = st.builds(
    lambda baseline, calibration: msgspec.structs.replace(CARD, raw_baseline=baseline, calibration=calibration),
    st.floats(0.01, 0.99),
    CALIBRATIONS,
)


@st.composite
def forests(draw: st.DrawFn, card: ModelCard) -> Floats:
    """Make what a forest may say of some rows: any split of the way from its baseline to raw probabilities."""
    rows = draw(st.integers(0, 6))
    parts = draw(hnp.arrays(np.float64, (rows, WIDTH), elements=st.floats(-0.3, 0.3)))
    raw = draw(hnp.arrays(np.float64, (rows,), elements=SHARES))
    if rows:
        parts[:, -1] += raw - card.raw_baseline - parts.sum(axis=1)
    return parts


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_baseline_and_contributions_add_up_to_the_probability(data: st.DataObject) -> None:
    card = data.draw(CARDS)
    raw = data.draw(forests(card))
    probability, baseline, contributions = explained(raw, card)
    np.testing.assert_allclose(baseline + contributions.sum(axis=1), probability, atol=1e-9)
    np.testing.assert_allclose(probability, card.calibration(card.raw_baseline + raw.sum(axis=1)))
    assert np.isfinite(contributions).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_calibrating_keeps_each_contributions_direction_and_order(data: st.DataObject) -> None:
    card = data.draw(CARDS)
    raw = data.draw(forests(card))
    _, _, contributions = explained(raw, card)
    for row, given_row in zip(contributions, raw, strict=True):
        assert (np.sign(row) * np.sign(given_row) >= 0).all()
        assert (np.diff(row[np.argsort(given_row)]) >= -1e-12).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_rows_explanation_does_not_depend_on_the_other_rows(data: st.DataObject) -> None:
    raw = data.draw(forests(CARD))
    whole = explained(raw)
    for n in range(len(raw)):
        probability, _, contributions = explained(raw[n : n + 1])
        np.testing.assert_array_equal(probability[0], whole[0][n])
        np.testing.assert_array_equal(contributions[0], whole[2][n])


def test_a_row_whose_contributions_cancel_out_keeps_them_at_the_calibrations_slope() -> None:
    raw = np.zeros((1, WIDTH))
    raw[0, :2] = 0.1, -0.1
    probability, baseline, contributions = explained(raw)
    assert probability[0] == pytest.approx(baseline)
    slope = float(CARD.calibration.steepness(np.asarray(CARD.raw_baseline)))
    assert contributions[0, :3] == pytest.approx([0.1 * slope, -0.1 * slope, 0.0])


def test_the_slope_at_a_flat_row_is_the_limit_of_those_nearby() -> None:
    flat, near = np.zeros((1, WIDTH)), np.zeros((1, WIDTH))
    flat[0, :2], near[0, :2] = (0.1, -0.1), (0.1, -0.1 + 1e-6)
    assert explained(flat)[2][0, 0] == pytest.approx(explained(near)[2][0, 0], rel=1e-4)


def test_no_rows_have_no_explanation() -> None:
    probability, _, contributions = explained(np.zeros((0, WIDTH)))
    assert (probability.shape, contributions.shape) == ((0,), (0, WIDTH))


@given(CALIBRATIONS, SHARES, SHARES)
def test_calibration_keeps_the_order_and_stays_a_probability(calibration: Calibration, one: float, two: float) -> None:
    low, high = calibration(np.array(sorted([one, two])))
    assert 0 <= low <= high <= 1


@given(SIGMOIDS, SHARES)
def test_steepness_is_the_derivative(calibration: Sigmoid, raw: float) -> None:
    around = calibration(np.array([raw - 1e-5, raw + 1e-5]))
    assert float(calibration.steepness(np.asarray(raw))) == pytest.approx((around[1] - around[0]) / 2e-5, rel=1e-4)


def test_an_isotonic_calibration_is_as_steep_as_its_lines() -> None:
    calibration = Isotonic((0.1, 0.4, 0.5), (0.0, 0.3, 0.9))
    assert calibration.steepness(np.array([0.0, 0.1, 0.2, 0.45, 0.5, 0.9])) == pytest.approx([0, 1, 1, 6, 0, 0])
    assert Isotonic((0.1,), (0.3,)).steepness(np.array([0.1])) == pytest.approx([0])


@pytest.mark.parametrize(
    ("probability", "band"),
    [
        (0.0, Band.LOW),
        (0.0999, Band.LOW),
        (0.1, Band.MEDIUM),
        (0.2999, Band.MEDIUM),
        (0.3, Band.HIGH),
        (1.0, Band.HIGH),
    ],
)
def test_a_threshold_belongs_to_the_band_above_it(probability: float, band: Band) -> None:
    assert CARD.thresholds.band(probability) is band


@given(SHARES, SHARES, SHARES, SHARES)
def test_a_higher_probability_is_never_in_a_lower_band(one: float, two: float, first: float, second: float) -> None:
    thresholds = Thresholds(*sorted([first, second]))
    order = list(Band)
    low, high = (order.index(thresholds.band(probability)) for probability in sorted([one, two]))
    assert low <= high


@pytest.mark.parametrize(
    "other",
    [
        {"feature_names": FEATURE_NAMES[::-1]},
        {"feature_names": FEATURE_NAMES[:-1]},
        {"feature_names": (*FEATURE_NAMES, "postcode")},
        {"feature_set": FEATURE_SET + 1},
    ],
)
def test_a_card_of_other_names_order_or_set_does_not_match(other: dict[str, Any]) -> None:
    assert CARD.matches_code()
    assert not msgspec.structs.replace(CARD, **other).matches_code()
