"""Explain a stored score: compute it again, tell where it came from, and say why in words."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from connectors.models.versions import find_version, load_found
from connectors.score_reading import find_score
from connectors.score_tracing import Source, challenger_of, committed_at, outcome_of, published_at, source_of
from connectors.settings import Settings
from connectors.view_reading import reading
from schemas.challenger import ChallengerScore
from schemas.errors import HealthAllianceError, UnknownRecordError
from schemas.explanation import Step, cause, headline
from schemas.feature_words import Language
from schemas.features import Features
from schemas.stored_score import StoredScore
from streams.scoring import Prediction, predict


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the model says today of the stored features; `trouble` says why it could not be asked."""

    is_equal: bool | None
    probability: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Challenged:
    """What a challenger said of the same features, and what it says today."""

    probability: float
    band: str
    model_name: str
    model_version: str
    model_digest: str
    recomputed: Recomputed


@dataclass(frozen=True, slots=True)
class Explained:
    """A score, explained. Times in UTC; None where they are not known any more.

    because, superseded_because: in words, why it replaces another, and why another replaces it.
    """

    score: StoredScore
    source: Source
    recomputed: Recomputed
    challenger: Challenged | None
    headline: str
    steps: tuple[Step, ...]
    because: str | None
    superseded_because: str | None
    committed_at: datetime | None
    published_at: datetime | None
    outcome: str | None


def explain_score(settings: Settings, record_id: str, language: Language) -> Explained:
    """Explain a score; raise UnknownRecordError where there is none, UnavailableError without an answer."""
    try:
        id_ = str(UUID(record_id))
    except ValueError:
        raise UnknownRecordError(f"{record_id} is no record_id.") from None
    score, challenger, committed, outcome = asyncio.run(_read(settings, id_))
    return Explained(
        score=score,
        source=source_of(settings, score),
        recomputed=recompute(settings, score),
        challenger=challenged(settings, score, challenger) if challenger else None,
        headline=headline(score.probability, score.band, language),
        steps=score.steps(language),
        because=cause(score.reason, language) if score.reason else None,
        superseded_because=cause(score.superseded_because, language) if score.superseded_by else None,
        committed_at=committed,
        published_at=published_at(settings, score),
        outcome=outcome,
    )


async def _read(
    settings: Settings, record_id: str
) -> tuple[StoredScore, ChallengerScore | None, datetime | None, str | None]:
    async with reading(settings.database_url) as connection:
        score = await find_score(connection, record_id)
        if score is None:
            raise UnknownRecordError(f"There is no score {record_id}.")
        return (
            score,
            await challenger_of(connection, score),
            await committed_at(connection, score),
            await outcome_of(connection, score),
        )


def recompute(settings: Settings, score: StoredScore) -> Recomputed:
    """Score the stored features with the model that is named, if it is still the same file; compare bit by bit."""
    found = _predicted(settings, score.features, score)
    if isinstance(found, str):
        return Recomputed(None, trouble=found)
    same = (found.probability, found.baseline, found.contributions) == (
        score.probability,
        score.baseline,
        score.contributions,
    )
    return Recomputed(same, found.probability)


def challenged(settings: Settings, score: StoredScore, said: ChallengerScore) -> Challenged:
    """Score the stored features with the challenger that is named, as `recompute` does with the champion."""
    found = _predicted(settings, score.features, said)
    if isinstance(found, str):
        again = Recomputed(None, trouble=found)
    else:
        again = Recomputed((found.probability, found.band) == (said.probability, said.band), found.probability)
    return Challenged(said.probability, said.band, said.model_name, said.model_version, said.model_digest, again)


def _predicted(
    settings: Settings, features: Features | None, scored_by: StoredScore | ChallengerScore
) -> Prediction | str:
    """Score features with the model that made a score; say in words why it cannot be asked."""
    if features is None:
        return "a retracted score has nothing to compute"
    try:
        named = settings.model_copy(update={"model_name": scored_by.model_name})
        model = load_found(named, find_version(named, scored_by.model_version).version)
    except HealthAllianceError as error:
        return str(error)
    if model.digest != scored_by.model_digest:
        return "the registry holds another file under this version"
    return predict(features, model)
