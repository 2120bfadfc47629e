"""The HTTP API as a hospital's system uses it, over a real socket, with the stream beside it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.riskassessment import RiskAssessment
from prometheus_client.parser import text_string_to_metric_families

from healthalliance.progress import fetch, wait_until_applied
from schemas.features import FEATURE_NAMES
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import ends_of, keys_of, latest_risk, read_since
from tests.integration.running import Trained, wait_until
from tests.integration.running_api import Api, running_api
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

FHIR = {"Content-Type": "application/fhir+json"}
OWN = "embl"
FIVE = {"age": 81, "gender_encoded": 0, "num_conditions": 6, "num_medications": 9, "recent_encounters": 4}
EVENTS = f"/api/v1/institutions/{OWN}/encounters"


@pytest.fixture(scope="module")
def own(api: Api) -> Iterator[httpx2.Client]:
    with api.client(OWN) as client:
        yield client


def problem(response: httpx2.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["type"]).removeprefix("urn:healthalliance:problem:")


def post_event(client: httpx2.Client, document: Any, **headers: str) -> httpx2.Response:
    return client.post(EVENTS, content=to_bytes(document), headers=FHIR | headers)


def scored(trained: Trained, client: httpx2.Client, *resources: Any) -> dict[str, Any]:
    """Send a Bundle whose first resource is an Encounter, and return the row of its score."""
    response = post_event(client, bundle(*resources))
    assert response.status_code == 202, response.text
    wait_until_applied(trained.settings, 120)
    return latest_risk(trained.settings, OWN, [resources[0]["id"]])[resources[0]["id"]]


# --- keys


def test_without_a_good_key_nothing_but_health_and_the_description_is_told(api: Api) -> None:
    with api.client(None) as client:
        assert client.get("/health").json()["status"] == "healthy"
        assert client.get("/openapi.json").status_code == 200
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Bearer {api.keys[OWN]}x"}):
            response = client.post("/api/v1/predict", json=FIVE, headers=headers)
            assert (response.status_code, problem(response)) == (401, "no-key")


def test_a_key_opens_its_own_institution_only(api: Api, trained: Trained, own: httpx2.Client) -> None:
    row = scored(trained, own, encounter("api-own", patient="api-1"))
    with api.client("dkfz") as other:
        response = other.post(EVENTS, content=to_bytes(encounter()), headers=FHIR)
        assert (response.status_code, problem(response)) == (403, "not-yours")
        assert problem(other.get("/api/v1/risk", params={"institution": OWN})) == "not-yours"
        assert problem(other.get(f"/api/v1/scores/{row['record_id']}")) == "unknown-record"
        known = {one["id"]: one["activity"] for one in other.get("/api/v1/institutions").json()}
        assert known["dkfz"] is not None
        assert known[OWN] is None
    assert own.get(f"/api/v1/scores/{row['record_id']}").status_code == 200


def test_bad_keys_in_a_row_are_turned_away_for_a_while(trained: Trained) -> None:
    with running_api(trained.settings) as fresh, fresh.client(None) as client:
        answers = [client.get("/api/v1/risk", headers={"X-API-Key": str(number)}) for number in range(130)]
        assert {one.status_code for one in answers} == {401, 429}
        assert int(answers[-1].headers["retry-after"]) >= 1
        with fresh.client(OWN) as good:
            assert good.get("/api/v1/risk").status_code == 200


# --- institutions and predictions


def test_an_institution_sees_what_its_topic_received(trained: Trained, own: httpx2.Client) -> None:
    scored(trained, own, encounter("api-seen", patient="api-2"))
    before = {one["id"]: one for one in own.get("/api/v1/institutions").json()}[OWN]["activity"]
    scored(trained, own, encounter("api-seen-2", patient="api-2"))
    after = {one["id"]: one for one in own.get("/api/v1/institutions").json()}[OWN]["activity"]
    assert after["topics"]["encounters"] == topic_name(TopicFamily.ENCOUNTERS, OWN)
    assert after["events_today"] == before["events_today"] + 1
    assert after["last_event_at"] > before["last_event_at"]
    assert 0 <= after["rejected_share"] <= 1


def test_five_features_are_scored_and_what_was_assumed_is_said(own: httpx2.Client) -> None:
    found = own.post("/api/v1/predict", json=FIVE).json()
    assert found["assumed"] == sorted(FEATURE_NAMES[5:])
    assert found["features"]["age_years"] == 81
    assert found["baseline"] + sum(found["contributions"].values()) == pytest.approx(found["probability"])
    nine = FIVE | {"prior_inpatient_stays_365d": 4, "length_of_stay_days": 12.5, "emergency_admission": 1}
    more = own.post("/api/v1/predict", json=nine | {"prior_emergency_visits_180d": 3}).json()
    assert more["assumed"] == []
    assert more["probability"] > found["probability"]


def test_a_bundle_is_scored_as_the_stream_scores_it_and_nothing_is_written(
    trained: Trained, own: httpx2.Client
) -> None:
    resources = (encounter("api-same", patient="api-3"), patient("api-3"), condition("api-c", patient="api-3"))
    body = to_bytes(bundle(*resources))
    predicted = own.post("/api/v1/predict", content=body, headers=FHIR).json()
    assert latest_risk(trained.settings, OWN, ["api-same"]) == {}
    row = scored(trained, own, *resources)
    assert predicted["encounter"] == "Encounter/api-same"
    assert (predicted["probability"], predicted["band"]) == (row["probability"], row["band"])
    assert predicted["contributions"] == json.loads(row["contributions"])
    assert predicted["model"]["version"] == row["model_version"]


def test_the_stored_history_counts_where_asked(trained: Trained, own: httpx2.Client) -> None:
    for number in range(3):
        start, end = f"2024-0{number + 1}-01T10:00:00Z", f"2024-0{number + 1}-04T10:00:00Z"
        scored(trained, own, encounter(f"api-before-{number}", start, end, patient="api-4"))
    body = to_bytes(encounter("api-next", "2024-06-01T10:00:00Z", "2024-06-05T10:00:00Z", patient="api-4"))
    alone = own.post("/api/v1/predict", content=body, headers=FHIR).json()
    known = own.post("/api/v1/predict?history=true", content=body, headers=FHIR).json()
    assert alone["features"]["prior_inpatient_stays_365d"] == 0
    assert known["features"]["prior_inpatient_stays_365d"] == 3


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"age": -1}, "age"),
        ({"age": "81"}, "age"),
        ({"gender_encoded": 3}, "gender_encoded"),
        ({"num_conditions": None}, "num_conditions"),
        ({"of_a_patient": "Jane"}, "unknown member"),
    ],
)
def test_features_that_make_no_sense_are_named_and_not_repeated(
    own: httpx2.Client, change: dict[str, Any], names: str
) -> None:
    response = own.post("/api/v1/predict", json=FIVE | change)
    assert (response.status_code, problem(response)) == (422, "invalid")
    assert names in response.json()["detail"]
    assert "Jane" not in response.text


# --- intake


def test_an_accepted_event_is_on_the_topic_under_its_patients_key(trained: Trained, own: httpx2.Client) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, OWN)
    ends = ends_of(trained.settings, topic)
    body = to_bytes(bundle(encounter("api-sent", patient="api-5"), patient("api-5")))
    response = own.post(EVENTS, content=body, headers=FHIR)
    assert response.status_code == 202
    outcome = response.json()
    assert (outcome["resourceType"], outcome["issue"][0]["severity"]) == ("OperationOutcome", "information")
    [message] = read_since(trained.settings, topic, ends)
    assert (message.key, message.value) == (b"Patient/api-5", body)
    assert f"partition {message.partition}, offset {message.offset}" in outcome["issue"][0]["diagnostics"]


def test_an_idempotency_key_publishes_once_however_often_and_at_once_it_is_asked(
    trained: Trained, own: httpx2.Client
) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, OWN)
    ends = ends_of(trained.settings, topic)
    document, key = encounter("api-once", patient="api-6"), str(uuid4())

    def ask(_: int) -> httpx2.Response:
        return post_event(own, document, **{"Idempotency-Key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    again = ask(0)
    assert {one.status_code for one in answers} <= {202, 409}
    assert len(read_since(trained.settings, topic, ends)) == 1
    assert again.status_code == 202
    assert {one.text for one in answers if one.status_code == 202} == {again.text}
    other = post_event(own, encounter("api-other", patient="api-6"), **{"Idempotency-Key": key})
    assert (other.status_code, problem(other)) == (422, "idempotency-key")


def test_an_idempotency_key_is_forgotten_after_a_day(trained: Trained, own: httpx2.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    assert post_event(own, encounter("api-old", patient="api-6"), **headers).status_code == 202
    set_back = "UPDATE intake_requests SET requested_at = requested_at - interval '25 hours' RETURNING institution"
    assert fetch(trained.settings, set_back)
    with running_api(trained.settings):  # as each process does when it starts, and every hour
        wait_until("they are forgotten", lambda: not fetch(trained.settings, "SELECT FROM intake_requests"))


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (bundle(encounter("api-bad", status="gibberish")), "Bundle.entry[0].resource.status"),
        (encounter("api-bad", "2024-03-05T10:00:00Z", "2024-03-01T10:00:00Z"), "Encounter.period"),
        (bundle(encounter("a", patient="one"), encounter("b", patient="two")), "Bundle"),
        ({"resourceType": "Observation"}, None),
    ],
)
def test_what_is_not_accepted_is_answered_with_its_path_and_not_published(
    trained: Trained, own: httpx2.Client, document: Any, path: str | None
) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, OWN)
    ends = ends_of(trained.settings, topic)
    response = post_event(own, document)
    assert response.status_code == 422
    [issue, *_] = response.json()["issue"]
    assert issue.get("expression", [None]) == [path]
    assert read_since(trained.settings, topic, ends) == []


def test_a_body_of_20_megabytes_is_too_large(own: httpx2.Client) -> None:
    response = own.post(EVENTS, content=b" " * 20_000_000, headers=FHIR)
    assert (response.status_code, problem(response)) == (413, "too-large")


def test_a_client_that_sends_its_body_slowly_is_let_go(trained: Trained) -> None:
    impatient = trained.settings.model_copy(update={"api_body_timeout_s": 0.5})
    with running_api(impatient) as api:
        address = urlsplit(api.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.keys[OWN]}\r\n"
            head += "Content-Type: application/fhir+json\r\nContent-Length: 1000\r\n\r\n{"
            connection.sendall(head.encode())
            started = time.monotonic()
            answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5


def test_another_media_type_is_refused(own: httpx2.Client) -> None:
    response = own.post(EVENTS, content=b"<Encounter/>", headers={"Content-Type": "application/fhir+xml"})
    assert (response.status_code, problem(response)) == (415, "media-type")


# --- scores


def test_a_score_names_the_hospitals_own_references_and_what_replaced_it(trained: Trained, own: httpx2.Client) -> None:
    first = scored(trained, own, encounter("api-twice", patient="api-7"))
    second = scored(trained, own, encounter("api-twice", patient="api-7", version=2, end="2024-03-09T10:00:00Z"))
    found = own.get(f"/api/v1/scores/{first['record_id']}").json()
    assert (found["patient"], found["encounter"]) == ("Patient/api-7", "Encounter/api-twice")
    assert found["superseded_by"] == str(second["record_id"])
    assert found["encounter_pseudonym"] == keys_of(trained.settings, OWN).encounter_pseudonym("api-twice")


def test_scores_are_risk_assessments_where_fhir_is_asked_for(trained: Trained, own: httpx2.Client) -> None:
    first = scored(trained, own, encounter("api-fhir", patient="api-9"))
    second = scored(trained, own, encounter("api-fhir", patient="api-9", version=2, end="2024-03-09T10:00:00Z"))
    accept = {"Accept": "application/fhir+json"}
    old, new = (own.get(f"/api/v1/scores/{one['record_id']}", headers=accept).json() for one in (first, second))
    assert (old["status"], new["status"]) == ("amended", "amended")
    assert ([tag["code"] for tag in old["meta"]["tag"]], "meta" in new) == (["superseded"], False)
    assert all(RiskAssessment.model_validate(one).status == "amended" for one in (old, new))
    assert new["encounter"]["reference"] == "Encounter/api-fhir"
    assert new["prediction"][0]["probabilityDecimal"] == second["probability"]
    page = own.get("/api/v1/risk", params={"limit": 1}, headers=accept).json()
    following = own.get(page["link"][0]["url"], headers=accept).json()
    assert Bundle.model_validate(page).type == "searchset"
    assert page["entry"][0]["resource"]["id"] != following["entry"][0]["resource"]["id"]


def test_a_score_that_was_taken_back_is_entered_in_error_and_predicts_nothing(
    trained: Trained, own: httpx2.Client
) -> None:
    first = scored(trained, own, encounter("api-back", patient="api-back"))
    taken_back = encounter("api-back", patient="api-back", version=2, status="entered-in-error")
    assert post_event(own, taken_back).status_code == 202
    wait_until_applied(trained.settings, 120)
    path = f"/api/v1/scores/{first['record_id']}"
    found = own.get(path, headers={"Accept": "application/fhir+json"}).json()
    assert RiskAssessment.model_validate(found).status == "entered-in-error"
    assert (found["meta"]["tag"][0]["code"], "prediction" in found) == ("superseded", False)
    assert own.get(path).json()["superseded_because"] == "retracted"
    assert own.get(f"{path}/explanation").json()["superseded_because"] == "the encounter was taken back"


def test_a_score_is_explained_in_words_that_lead_to_its_probability(trained: Trained, own: httpx2.Client) -> None:
    row = scored(trained, own, encounter("api-why", patient="api-8"), patient("api-8"))
    for language, risk in (("en", "The risk of"), ("de", "Das Risiko")):
        found = own.get(f"/api/v1/scores/{row['record_id']}/explanation", params={"language": language}).json()
        assert found["headline"].startswith(risk)
        assert found["steps"][0]["before"] == pytest.approx(row["baseline"])
        assert found["steps"][-1]["after"] == pytest.approx(row["probability"])
    assert own.get(f"/api/v1/scores/{uuid4()}/explanation").status_code == 404


def test_pages_of_scores_hold_each_that_stands_once_in_the_order_of_scoring(
    trained: Trained, own: httpx2.Client
) -> None:
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        asked: dict[str, Any] = {"limit": 200, "institution": OWN} | ({"after": page["next"]} if page["next"] else {})
        page = own.get("/api/v1/risk", params=asked).json()
        found += page["items"]
    rows = fetch(trained.settings, "SELECT record_id::text FROM latest_risk WHERE institution = $1", OWN)
    assert sorted(one["record_id"] for one in found) == sorted(row["record_id"] for row in rows)
    assert [one["scored_at"] for one in found] == sorted(one["scored_at"] for one in found)
    some = found[len(found) // 2]
    asked_again: dict[str, Any] = {"band": some["band"], "since": some["scored_at"], "limit": 500}
    expected = [one for one in found if one["band"] == some["band"] and one["scored_at"] >= some["scored_at"]]
    assert own.get("/api/v1/risk", params=asked_again).json()["items"] == expected


@pytest.mark.parametrize(
    "path", ["/api/v1/scores/5f71e0e0-6e38-86ff-aa7a-491f08bbda82", "/api/v1/scores/nonsense", "/api/v1/risk?after=x"]
)
def test_nonsense_is_a_typed_problem(own: httpx2.Client, path: str) -> None:
    response = own.get(path)
    assert (response.status_code, problem(response)) in {(404, "unknown-record"), (422, "invalid")}


# --- metrics


def test_requests_and_predictions_are_counted_without_a_word_of_what_was_sent(api: Api, own: httpx2.Client) -> None:
    own.post("/api/v1/predict", json=FIVE)
    own.get("/api/v1/scores/nonsense")
    families = {one.name: one for one in text_string_to_metric_families(httpx2.get(api.metrics_url).text)}
    names = {"http_requests", "http_request_duration_seconds", "predictions", "prediction_duration_seconds"}
    assert names | {"model_confidence_score", "active_connections"} <= families.keys()
    routes = {one.labels["route"] for one in families["http_requests"].samples}
    assert "/api/v1/scores/{record_id}" in routes
    assert sum(one.value for one in families["predictions"].samples if one.name == "predictions_total") >= 1
