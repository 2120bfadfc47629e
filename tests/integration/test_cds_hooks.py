"""CDS Hooks as an electronic health record calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from connectors.kafka import OutMessage, Publisher
from healthalliance.progress import fetch, wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import latest_risk
from tests.integration.running import Trained
from tests.integration.running_api import Api
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

OWN = "ukhd"
SERVICE = "/cds-services/readmission-risk"
NOW = "2026-01-05T10:00:00Z"


@pytest.fixture(scope="module")
def own(api: Api) -> Iterator[httpx2.Client]:
    with api.client(OWN) as client:
        yield client


def call(client: httpx2.Client, patient_id: str, encounter_id: str, **prefetch: Any) -> list[dict[str, Any]]:
    asked = {
        "hook": "encounter-discharge",
        "hookInstance": str(uuid4()),
        "context": {"userId": "Practitioner/1", "patientId": patient_id, "encounterId": encounter_id},
        "prefetch": prefetch,
    }
    response = client.post(SERVICE, json=asked)
    assert response.status_code == 200, response.text
    return list(response.json()["cards"])


def stored(trained: Trained, card: dict[str, Any]) -> dict[str, Any]:
    [row] = fetch(trained.settings, "SELECT * FROM cds_cards WHERE card_id::text = $1", card["uuid"])
    return dict(row)


def feedback(client: httpx2.Client, card: str, outcome: str, at: str = NOW, **more: Any) -> httpx2.Response:
    one = {"card": card, "outcome": outcome, "outcomeTimestamp": at, **more}
    return client.post(f"{SERVICE}/feedback", json={"feedback": [one]})


def test_the_service_describes_itself_to_whoever_asks(api: Api) -> None:
    with api.client(None) as client:
        [service] = client.get("/cds-services").json()["services"]
        assert (service["hook"], service["id"]) == ("encounter-discharge", "readmission-risk")
        assert client.post(SERVICE, json={}).status_code == 401


def test_the_card_of_a_scored_encounter_shows_the_score_that_stands(trained: Trained, own: httpx2.Client) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, OWN)
    value = to_bytes(bundle(encounter("cds-1", patient="cds-p"), patient("cds-p")))
    Publisher(trained.settings).publish([OutMessage(topic, b"Patient/cds-p", value)])
    wait_until_applied(trained.settings, 120)
    row = latest_risk(trained.settings, OWN, ["cds-1"])["cds-1"]
    [card] = call(own, "cds-p", "cds-1")
    kept = stored(trained, card)
    assert (kept["record_id"], kept["band"], kept["outcome"]) == (row["record_id"], row["band"], None)
    assert f"{row['model_name']} version {row['model_version']}" in card["detail"]
    assert call(own, "another", "cds-1") == []


def test_what_is_not_scored_yet_is_scored_from_what_the_caller_knows(trained: Trained, own: httpx2.Client) -> None:
    conditions = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": condition(patient="cds-new")}]}
    known = {
        "patient": patient("cds-new"),
        "encounter": encounter("cds-open", end=None, patient="cds-new"),
        "conditions": conditions,
        "medications": None,
    }
    [card] = call(own, "cds-new", "cds-open", **known)
    assert stored(trained, card)["record_id"] is None
    assert latest_risk(trained.settings, OWN, ["cds-open"]) == {}
    assert call(own, "cds-new", "cds-open") == []
    assert call(own, "cds-new", "cds-open", encounter={"resourceType": "Encounter", "status": 7}) == []


def test_feedback_is_kept_without_comments_and_the_latest_holds(trained: Trained, own: httpx2.Client, api: Api) -> None:
    [card] = call(own, "cds-fb", "cds-fb", encounter=encounter("cds-fb", patient="cds-fb"))
    id_ = card["uuid"]
    reason = {"reason": {"code": "planned-readmission", "system": "x"}, "userComment": "about Jane"}
    assert feedback(own, id_, "overridden", overrideReason=reason).json() == {"noted": 1}
    assert feedback(own, id_, "accepted", at="2026-01-04T10:00:00Z").status_code == 200
    kept = stored(trained, card)
    assert (kept["outcome"], kept["override_reason"]) == ("overridden", "planned-readmission")
    assert "Jane" not in str(kept)
    with api.client("dkfz") as other:
        assert feedback(other, id_, "accepted").status_code == 404
    assert feedback(own, str(uuid4()), "accepted").status_code == 404
    assert feedback(own, id_, "ignored").status_code == 422
    unheard = {"reason": {"code": "made up"}}
    assert feedback(own, id_, "overridden", at="2026-01-06T10:00:00Z", overrideReason=unheard).status_code == 200
    assert stored(trained, card)["override_reason"] == "other"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"hook": "order-select"}', b'{"context": {"patientId": "../x"}}'])
def test_nonsense_is_a_typed_problem(own: httpx2.Client, body: bytes) -> None:
    response = own.post(SERVICE, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
