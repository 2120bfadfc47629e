"""Explain a stored score: compute it again, tell where it came from, and say why in words."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from connectors.models.versions import find_version, load_found
from connectors.score_reading import find_score
from connectors.score_tracing import committed_at, outcome_of, published_at
from connectors.settings import Settings
from connectors.view_reading import reading
from healthalliance.api.predicting import predict
from schemas.errors import HealthAllianceError, UnknownRecordError
from schemas.explanation import Step, cause, headline
from schemas.feature_words import Language
from schemas.stored_score import StoredScore


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the model says today of the stored features; `trouble` says why it could not be asked."""

    is_equal: bool | None
    probability: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """A score, explained. Times in UTC; None where they are not known any more."""

    score: StoredScore
    recomputed: Recomputed
    headline: str
    steps: tuple[Step, ...]
    because: str | None
    committed_at: datetime | None
    published_at: datetime | None
    outcome: str | None


def explain_score(settings: Settings, record_id: str, language: Language) -> Explained:
    """Explain a score; raise UnknownRecordError where there is none, UnavailableError without an answer."""
    try:
        id_ = str(UUID(record_id))
    except ValueError:
        raise UnknownRecordError(f"{record_id} is no record_id.") from None
    score, committed, outcome = asyncio.run(_read(settings, id_))
    return Explained(
        score=score,
        recomputed=recompute(settings, score),
        headline=headline(score.probability, score.band, language),
        steps=score.steps(language),
        because=cause(score.reason, language) if score.reason else None,
        committed_at=committed,
        published_at=published_at(settings, score),
        outcome=outcome,
    )


async def _read(settings: Settings, record_id: str) -> tuple[StoredScore, datetime | None, str | None]:
    async with reading(settings.database_url) as connection:
        score = await find_score(connection, record_id)
        if score is None:
            raise UnknownRecordError(f"There is no score {record_id}.")
        return score, await committed_at(connection, score), await outcome_of(connection, score)


def recompute(settings: Settings, score: StoredScore) -> Recomputed:
    """Score the stored features with the model that is named, if it is still the same file; compare bit by bit."""
    if score.features is None or score.probability is None:
        return Recomputed(None, trouble="a retracted score has nothing to compute")
    try:
        named = settings.model_copy(update={"model_name": score.model_name})
        model = load_found(named, find_version(named, score.model_version).version)
    except HealthAllianceError as error:
        return Recomputed(None, trouble=str(error))
    if model.digest != score.model_digest:
        return Recomputed(None, trouble="the registry holds another file under this version")
    found = predict(score.features, model)
    same = (found.probability, found.baseline, found.contributions) == (
        score.probability,
        score.baseline,
        score.contributions,
    )
    return Recomputed(same, found.probability)
