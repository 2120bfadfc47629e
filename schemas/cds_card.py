"""A score as a CDS Hooks card: pure.

Source: https://cds-hooks.hl7.org/2.0/#card-attributes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.explanation import headline, steps
from schemas.messages import Band

MOST_SUMMARY = 139  # "<140-character"

# A high risk asks for a look before discharge; `critical` is for what endangers life now, which no risk within 30 days
# does.
_INDICATORS = {Band.LOW: "info", Band.MEDIUM: "info", Band.HIGH: "warning"}

REASONS_SYSTEM = "urn:healthalliance:override-reason"
OVERRIDE_REASONS = {
    "follow-up-arranged": "Follow-up is arranged",
    "known-and-accepted": "The risk is known and accepted",
    "not-this-patient": "Does not fit this patient",
    "planned-readmission": "The readmission is planned",
    "end-of-life-care": "Palliative or end-of-life care",
}
_SOURCE = {"label": "HealthAlliance 30-day readmission risk"}


def cds_card(
    card_id: str,
    probability: float,
    band: Band,
    baseline: float,
    contributions: Mapping[str, float],
    features: Mapping[str, float | None],
    model: str,
) -> dict[str, Any]:
    """Render a score; `model` names it for people. Its reasons are GitHub-flavoured Markdown in `detail`."""
    walk = steps(features, contributions, baseline, probability)
    detail = "\n".join(f"* {one.sentence}" for one in walk)
    return {
        "uuid": card_id,
        "summary": headline(probability, band)[:MOST_SUMMARY],
        "indicator": _INDICATORS[band],
        "detail": f"{detail}\n\n{model}. Not a medical device.",
        "source": _SOURCE,
        "overrideReasons": [
            {"code": code, "system": REASONS_SYSTEM, "display": display} for code, display in OVERRIDE_REASONS.items()
        ],
    }
