"""Cards for clinicians: short, honest, and as CDS Hooks describes them."""

from __future__ import annotations

import pytest

from schemas.cds_card import MOST_SUMMARY, OVERRIDE_REASONS, cds_card
from schemas.features import FEATURE_NAMES
from schemas.messages import Band

ID = "5f71e0e0-6e38-86ff-aa7a-491f08bbda82"
FEATURES = dict.fromkeys(FEATURE_NAMES, 3.0)


@pytest.mark.parametrize(("band", "indicator"), [("low", "info"), ("medium", "info"), ("high", "warning")])
def test_only_a_high_risk_warns_and_none_claims_danger_to_life(band: str, indicator: str) -> None:
    card = cds_card(ID, 0.24, Band(band), 0.11, {"prior_inpatient_stays_365d": 0.13}, FEATURES, "m version 3")
    assert (card["uuid"], card["indicator"]) == (ID, indicator)
    assert 0 < len(card["summary"]) <= MOST_SUMMARY
    assert card["source"]["label"]


def test_its_reasons_are_a_list_that_names_the_model_and_what_it_is_not() -> None:
    card = cds_card(ID, 0.24, Band.HIGH, 0.11, {"prior_inpatient_stays_365d": 0.13}, FEATURES, "m version 3")
    assert card["detail"].startswith("* 3 inpatient stays in the last year raise the risk from 11 % to 24 %.")
    assert card["detail"].endswith("m version 3. Not a medical device.")
    assert {one["code"] for one in card["overrideReasons"]} == OVERRIDE_REASONS.keys()
