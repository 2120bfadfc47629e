"""What a model is to those who score with it: its card, its calibration, and how its explanation adds up.

A model is one ONNX file. Input `features`: float32 [n, features], in the order of `schemas.features`.
Output `contributions`: float32 [n, features], the path attributions of the uncalibrated forest; with the card's
`raw_baseline` a row adds up to the forest's raw probability. The card travels in the file's metadata, under
`METADATA_KEY`, as JSON, so that one digest covers everything a score depends on.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.drift import Reference
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.messages import Band

METADATA_KEY = "healthalliance.model_card"
INPUT_NAME = "features"
OUTPUT_NAME = "contributions"

Floats = NDArray[np.float64]


class Sigmoid(msgspec.Struct, frozen=True, tag="sigmoid"):
    """Platt's sigmoid on the raw probability: 1 / (1 + exp(-(slope · raw + intercept)))."""

    slope: float
    intercept: float

    @property
    def is_flat(self) -> bool:
        """Whether everybody gets the same probability."""
        return self.slope == 0

    def __call__(self, raw: Floats) -> Floats:
        """Turn raw probabilities into calibrated ones, element by element."""
        return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * raw + self.intercept))), dtype=np.float64)

    def steepness(self, raw: Floats) -> Floats:
        """Return the derivative at `raw`."""
        calibrated = self(raw)
        return self.slope * calibrated * (1.0 - calibrated)


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic"):
    """Straight lines between knots of (raw, calibrated) probability, flat outside: centered isotonic regression.

    raw: strictly rising; calibrated: never falling; both at least one long. Lines instead of steps, since a step
    between the baseline and the score would blow contributions up (Oron and Flournoy 2017,
    doi:10.1080/19466315.2017.1286256).
    """

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]

    @property
    def is_flat(self) -> bool:
        """Whether everybody gets the same probability."""
        return self.calibrated[0] == self.calibrated[-1]

    def __call__(self, raw: Floats) -> Floats:
        """Turn raw probabilities into calibrated ones, element by element."""
        return np.asarray(np.interp(raw, self.raw, self.calibrated), dtype=np.float64)

    def steepness(self, raw: Floats) -> Floats:
        """Return the derivative at `raw`; at a knot that of the line above it, outside the knots 0."""
        knots, values = np.asarray(self.raw), np.asarray(self.calibrated)
        if len(knots) == 1:
            return np.zeros_like(raw, dtype=np.float64)
        slopes = np.concatenate([[0.0], np.diff(values) / np.diff(knots), [0.0]])
        return np.asarray(slopes[np.searchsorted(knots, raw, side="right")], dtype=np.float64)


Calibration = Sigmoid | Isotonic


class Thresholds(msgspec.Struct, frozen=True):
    """The lowest calibrated probabilities of the bands medium and high."""

    medium: float
    high: float

    def band(self, probability: float) -> Band:
        """Place a probability.

        >>> Thresholds(0.1, 0.3).band(0.3)
        <Band.HIGH: 'high'>
        """
        if probability >= self.high:
            return Band.HIGH
        return Band.MEDIUM if probability >= self.medium else Band.LOW


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a scorer must know of a model beside its forest; stored inside the ONNX file.

    reference: the features' distribution in training, by institution; None in models from before there was one.
    """

    feature_names: tuple[str, ...]
    feature_set: int
    raw_baseline: float
    calibration: Calibration
    thresholds: Thresholds
    reference: Reference | None = None

    def matches_code(self) -> bool:
        """Tell whether the model was made for this code's features: same names, order and set."""
        return self.feature_names == FEATURE_NAMES and self.feature_set == FEATURE_SET


class Model(Protocol):
    """A loaded model: who it is, its card, and its forest."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def version(self) -> str:
        """The registered version; a file outside the registry goes by its digest."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the ONNX file, hexadecimal."""
        ...

    @property
    def registered_at(self) -> float | None:
        """When it was registered, as Unix time in s; None outside the registry."""
        ...

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    def contributions(self, rows: NDArray[np.float32]) -> Floats:
        """Attribute rows [n, features]: the raw contributions [n, features]."""
        ...


def probabilities(model: Model, rows: NDArray[np.float32]) -> Floats:
    """Score rows [n, features] without saying why: calibrated probabilities [n].

    Raises ValueError where the model gives something that is no probability.
    """
    card = model.card
    found = card.calibration(card.raw_baseline + model.contributions(rows).sum(axis=1))
    if found.shape != (len(rows),) or not ((found >= 0.0) & (found <= 1.0)).all():
        raise ValueError("there is something else than a probability among the scores")
    return found


class Explained(msgspec.Struct, frozen=True):
    """Calibrated probabilities [n], the baseline all rows start from, and contributions [n, features].

    baseline + contributions.sum(axis=1) equals probability, to rounding.
    """

    probability: Floats
    baseline: float
    contributions: Floats


def explain(model: Model, rows: NDArray[np.float32]) -> Explained:
    """Score rows [n, features] and say why.

    The raw contributions are scaled, a row by one factor, so that they add up on the calibrated scale; by the
    mean value theorem the factor lies between the calibration's least and greatest slope.
    """
    card = model.card
    raw = model.contributions(rows)
    rise = raw.sum(axis=1)
    probability = card.calibration(card.raw_baseline + rise)
    baseline = float(card.calibration(np.asarray(card.raw_baseline)))
    flat = np.abs(rise) < 1e-9
    factor = np.where(
        flat,
        card.calibration.steepness(np.asarray(card.raw_baseline)),
        (probability - baseline) / np.where(flat, 1.0, rise),
    )
    return Explained(probability, baseline, raw * factor[:, None])
