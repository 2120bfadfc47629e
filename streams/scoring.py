"""Score decided encounters in one run of the model: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.challenger import ChallengerScore
from schemas.features import FEATURE_NAMES, FEATURE_SET, Features
from schemas.messages import Band, RiskScore, ScoreStatus
from schemas.model import Model, explain, probabilities
from streams.decision import ToScore


@dataclass(frozen=True, slots=True)
class Prediction:
    """A calibrated probability, why it is what it is, and what it is based on; see `schemas.messages.RiskScore`."""

    probability: float
    band: Band
    baseline: float
    contributions: dict[str, float]
    features: Features
    model_name: str
    model_version: str
    model_digest: str


def predict(features: Features, model: Model) -> Prediction:
    """Score features with a model, as `score` does."""
    explained = explain(model, np.array([features.vector()], dtype=np.float32))
    probability = float(explained.probability[0])
    return Prediction(
        probability=probability,
        band=model.card.thresholds.band(probability),
        baseline=explained.baseline,
        contributions=dict(zip(vars(features), explained.contributions[0].tolist(), strict=True)),
        features=features,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
    )


def score(to_score: Sequence[ToScore], model: Model, scored_at: datetime) -> list[RiskScore]:
    """Turn each decided encounter into its risk score, in the given order; `scored_at` in UTC."""
    explained = explain(model, _rows(to_score))
    numbers = iter(zip(explained.probability.tolist(), explained.contributions.tolist(), strict=True))
    return [
        _risk_score(one, model, scored_at, *next(numbers), explained.baseline)
        if one.message is not None
        else _risk_score(one, model, scored_at)
        for one in to_score
    ]


def challenge(to_score: Sequence[ToScore], model: Model, scored_at: datetime) -> list[ChallengerScore]:
    """Turn each decided encounter that has features into what a challenger says of it, in the given order.

    Raises whatever the model's file fails with, ValueError where it gives no probabilities.
    """
    with_features = [one for one in to_score if one.message is not None]
    return [
        ChallengerScore(
            record_id=one.record_id,
            institution=one.event.sender.institution.id,
            patient_pseudonym=one.patient_pseudonym,
            encounter_pseudonym=one.encounter_pseudonym,
            received_at=one.event.raw.received_at,
            scored_at=scored_at,
            probability=probability,
            band=model.card.thresholds.band(probability),
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
        )
        for one, probability in zip(with_features, probabilities(model, _rows(to_score)).tolist(), strict=True)
    ]


def _rows(to_score: Sequence[ToScore]) -> NDArray[np.float32]:
    with_features = [one.message.features.vector() for one in to_score if one.message is not None]
    return np.array(with_features, dtype=np.float32).reshape(-1, len(FEATURE_NAMES))


def _risk_score(
    one: ToScore,
    model: Model,
    scored_at: datetime,
    probability: float | None = None,
    contributions: Sequence[float] = (),
    baseline: float | None = None,
) -> RiskScore:
    raw, message = one.event.raw, one.message
    if message is None:
        status = ScoreStatus.ENTERED_IN_ERROR
    else:
        status = ScoreStatus.AMENDED if one.supersedes else ScoreStatus.FINAL
    return RiskScore(
        record_id=one.record_id,
        institution=one.event.sender.institution.id,
        patient_reference=f"Patient/{one.patient_id}",
        encounter_reference=f"Encounter/{one.encounter_id}",
        patient_pseudonym=one.patient_pseudonym,
        encounter_pseudonym=one.encounter_pseudonym,
        encounter_version=one.encounter_version,
        status=status,
        inpatient=message.inpatient if message else False,
        as_of=message.as_of if message else raw.received_at,
        received_at=raw.received_at,
        scored_at=scored_at,
        probability=probability,
        band=None if probability is None else model.card.thresholds.band(probability),
        baseline=baseline,
        contributions=dict(zip(FEATURE_NAMES, contributions, strict=False)),
        features=message.features if message else None,
        feature_set=FEATURE_SET,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        supersedes=one.supersedes.record_id if one.supersedes else None,
        reason=one.cause,
        topic_id=one.event.topic_id,
        source_partition=raw.partition,
        source_offset=raw.offset,
    )
