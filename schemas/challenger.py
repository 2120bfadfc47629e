"""What a challenger says of what the champion scores; stored, never published."""

from __future__ import annotations

from datetime import datetime

import msgspec


class ChallengerScore(msgspec.Struct, frozen=True, gc=False):
    """A challenger's probability beside the champion's score `record_id`: a row of `challenger_scores`.

    received_at: the event's arrival at the broker; scored_at: as the champion's; both in UTC. probability: calibrated.
    """

    record_id: str
    institution: str
    patient_pseudonym: str
    encounter_pseudonym: str
    received_at: datetime
    scored_at: datetime
    probability: float
    band: str
    model_name: str
    model_version: str
    model_digest: str
