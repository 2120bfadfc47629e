"""Score with a challenger beside the champion: whatever becomes of it, the champion's scores go on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from schemas.challenger import ChallengerScore
from schemas.model import Model
from streams import metrics
from streams.decision import ToScore
from streams.scoring import challenge

log = logging.getLogger("healthalliance.worker")


class Shadow:
    """Holds the challenger, None while there is none; one that fails is gone until it is set again."""

    def __init__(self) -> None:
        self.model: Model | None = None

    def scores(self, to_score: Sequence[ToScore], champion: Model, now: datetime) -> list[ChallengerScore]:
        """Score what the champion scores, unless both are the same model."""
        model = self.model
        if model is None or model.digest == champion.digest:
            return []
        try:
            return challenge(to_score, model, now)
        except Exception as error:  # a file of somebody else's making may fail at anything
            self.model = None
            metrics.CHALLENGER.clear()
            metrics.MODEL_REFUSALS.labels("challenger-failed").inc()
            log.warning(
                "The challenger %s version %s failed (%s) and is left alone until there is another one.",
                model.name, model.version, type(error).__name__,
            )  # fmt: skip
            return []
