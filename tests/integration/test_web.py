"""What browsers and strangers may do: each operation of the description, with each kind of caller."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from healthalliance.api.sessions import COOKIE
from healthalliance.progress import fetch, wait_until_applied
from tests.integration import eventful
from tests.integration.eventful import one_event
from tests.integration.reading import latest_risk
from tests.integration.running import Trained
from tests.integration.running_api import Api, running_api
from tests.unit.schemas.fhir_events import bundle, encounter, patient

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

OWN, OTHER = "ukhd", "dkfz"
_OPEN = {("get", "/health"), ("get", "/cds-services")}
_ENDLESS = "/api/v1/worklist/events"
_SECRET = "web-secret"  # of a patient whom only their own institution may know of


@pytest.fixture(scope="module")
def row(trained: Trained) -> dict[str, Any]:
    """Have an encounter scored, and return its row."""
    value = bundle(encounter(f"{_SECRET}-e", patient=_SECRET), patient(_SECRET))
    eventful.send(trained.settings, one_event(OWN, _SECRET, value))
    wait_until_applied(trained.settings, 120)
    return latest_risk(trained.settings, OWN, [f"{_SECRET}-e"])[f"{_SECRET}-e"]


@pytest.fixture(scope="module")
def operations(api: Api) -> list[tuple[str, str]]:
    paths = httpx2.get(f"{api.url}/openapi.json").json()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


@pytest.fixture(scope="module")
def requests(operations: list[tuple[str, str]], row: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Make a good request of each operation, about the encounter; fail for an operation that nobody thought of."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    record, stay = str(row["record_id"]), str(row["encounter_pseudonym"])
    places = {"institution_id": OWN, "record_id": record, "encounter_pseudonym": stay, "what": "snooze"}
    fhir = {"headers": {"Content-Type": "application/fhir+json"}}
    card = {"card": str(uuid4()), "outcome": "accepted", "outcomeTimestamp": "2026-01-05T10:00:00Z"}
    hook = {
        "hook": "encounter-discharge",
        "hookInstance": str(uuid4()),
        "context": {"userId": "Practitioner/1", "patientId": _SECRET, "encounterId": f"{_SECRET}-e"},
    }
    bodies: dict[tuple[str, str], dict[str, Any]] = {
        ("post", "/api/v1/predict"): {"json": {"age": 81, "gender_encoded": 0, "num_conditions": 6,
                                               "num_medications": 9, "recent_encounters": 4}},
        ("post", "/api/v1/institutions/{institution_id}/encounters"): {"json": encounter("web-e"), **fhir},
        ("put", "/api/v1/worklist/{encounter_pseudonym}/acknowledgement"): {"json": {"record_id": record}},
        ("put", "/api/v1/worklist/{encounter_pseudonym}/snooze"): {"json": {"until": tomorrow}},
        ("post", "/cds-services/readmission-risk"): {"json": hook},
        ("post", "/cds-services/readmission-risk/feedback"): {"json": {"feedback": [card]}},
        ("get", "/api/v1/risk"): {"params": {"institution": OWN}},
    }  # fmt: skip
    writing = {one for one in operations if one[0] in ("post", "put", "patch")}
    assert writing == {one for one in bodies if one[0] != "get"}
    return {one: {"url": one[1].format(**places), **bodies.get(one, {})} for one in operations if one[1] != _ENDLESS}


def ask(client: httpx2.Client, operation: tuple[str, str], request: dict[str, Any], **headers: str) -> httpx2.Response:
    return client.request(operation[0], **{**request, "headers": request.get("headers", {}) | headers})


@pytest.fixture
def browser(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, timeout=30) as client:
        assert client.post("/session", json={"key": api.keys[OWN]}, headers={"Origin": api.url}).status_code == 204
        yield client


Requests = dict[tuple[str, str], dict[str, Any]]
_TOLD = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def protected(response: httpx2.Response) -> bool:
    policy, cache = response.headers["content-security-policy"], response.headers["cache-control"]
    told = {name: response.headers.get(name) for name in _TOLD} == _TOLD
    return told and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and cache.startswith("no-")


def test_every_answer_has_the_headers_that_protect_it(api: Api, requests: Requests) -> None:
    with api.client(OWN) as own, api.client(None) as nobody:
        for operation, request in requests.items():
            for client in (own, nobody):
                response = ask(client, operation, request)
                assert protected(response), operation
                if operation[1].startswith("/api"):
                    assert response.headers["cache-control"] == "no-store", operation
                assert "server" not in response.headers
        for path in ("/", "/page/worklist.js", "/nowhere", "/openapi.json", "/api/v1/risk?limit=x", "/page/../app.py"):
            assert protected(own.get(path)), path
        assert "frame-ancestors 'none'" in own.get("/docs").headers["content-security-policy"]


def test_the_page_runs_and_shows_its_own_files_alone(api: Api) -> None:
    policy = httpx2.get(f"{api.url}/").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert set(policy.replace(";", "").split()) & {"*", "https:", "http:", "data:"} == set()


def test_only_over_tls_is_tls_asked_for(api: Api) -> None:
    with api.client(None) as client:
        assert "strict-transport-security" not in client.get("/health").headers
        behind_tls = client.get("/health", headers={"X-Forwarded-Proto": "https"})
        assert behind_tls.headers["strict-transport-security"] == "max-age=31536000"


def test_without_a_key_no_operation_answers_but_the_open_ones(api: Api, requests: Requests) -> None:
    with api.client(None) as nobody:
        for operation, request in requests.items():
            expected = 200 if operation in _OPEN else 401
            assert ask(nobody, operation, request).status_code == expected, operation
        assert nobody.get(_ENDLESS).status_code == 401


def test_another_institutions_key_learns_and_changes_nothing(
    api: Api, requests: Requests, row: dict[str, Any], trained: Trained
) -> None:
    about_somebody = [one for one in requests if "{" in one[1] or one == ("get", "/api/v1/risk")]
    assert len(about_somebody) >= 8
    names = (_SECRET, str(row["patient_pseudonym"]), str(row["encounter_pseudonym"]), str(row["record_id"]))
    marks = "SELECT * FROM worklist_marks WHERE encounter_pseudonym = $1"
    before = fetch(trained.settings, marks, row["encounter_pseudonym"])
    with api.client(OTHER) as other:
        for operation, request in requests.items():
            response = ask(other, operation, request)
            assert not [one for one in names if one in response.text], operation
            if operation in about_somebody:
                # Taking back what is not there is done, whosever it is.
                assert response.status_code in ((204,) if operation[0] == "delete" else (403, 404)), operation
    assert fetch(trained.settings, marks, row["encounter_pseudonym"]) == before
    with api.client(OWN) as own:
        for operation in about_somebody:
            assert ask(own, operation, requests[operation]).status_code in (200, 202, 204, 422), operation


def test_a_mark_is_not_taken_back_by_another_institution(api: Api, row: dict[str, Any], trained: Trained) -> None:
    path, record = f"/api/v1/worklist/{row['encounter_pseudonym']}/acknowledgement", str(row["record_id"])
    query = "SELECT FROM worklist_marks WHERE encounter_pseudonym = $1 AND acknowledged_record_id IS NOT NULL"
    with api.client(OWN) as own, api.client(OTHER) as other:
        assert own.put(path, json={"record_id": record}).status_code == 200
        assert other.delete(path).status_code == 204
        assert len(fetch(trained.settings, query, row["encounter_pseudonym"])) == 1
        assert own.delete(path).status_code == 204
        assert fetch(trained.settings, query, row["encounter_pseudonym"]) == []


@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.example", "http://127.0.0.1.elsewhere.example"])
def test_no_other_sites_page_has_a_signed_in_browser_change_anything(
    browser: httpx2.Client, requests: Requests, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for operation, request in requests.items():
        if operation[0] != "get":
            assert ask(browser, operation, request, **headers).status_code == 403, operation
    assert browser.post("/session", json={"key": "x"}, headers=headers).status_code == 403
    assert browser.delete("/session", headers=headers).status_code == 403


def test_no_other_site_may_read(browser: httpx2.Client, requests: Requests) -> None:
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    for operation, request in requests.items():
        response = ask(browser, operation, request, **headers)
        assert not [name for name in response.headers if name.startswith("access-control")], operation


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_ends_with_the_shift(api: Api) -> None:
    with api.client(None) as client:
        body, origin = {"key": api.keys[OWN]}, api.url
        plain = client.post("/session", json=body, headers={"Origin": origin}).headers["set-cookie"]
        tls = client.post(
            "/session", json=body, headers={"Origin": origin.replace("http", "https"), "X-Forwarded-Proto": "https"}
        )
    parts = {part.strip().lower() for part in plain.split(";")}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= parts
    assert not [part for part in parts if part.startswith("domain")]
    assert "secure" in {part.strip().lower() for part in tls.headers["set-cookie"].split(";")}
    assert api.keys[OWN] not in plain


def test_a_session_that_a_browser_brings_along_is_not_taken_over(api: Api) -> None:
    with api.client(None) as client:
        planted = f"{OWN}.99999999999.{'0' * 64}"
        given = client.post(
            "/session", json={"key": api.keys[OWN]}, headers={"Origin": api.url, "Cookie": f"{COOKIE}={planted}"}
        )
        assert planted not in given.headers["set-cookie"]
        refused = client.post("/session", json={"key": "wrong"}, headers={"Origin": api.url})
        assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)


def test_each_institution_has_its_own_rate_and_signing_in_has_one_too(trained: Trained) -> None:
    slow = trained.settings.model_copy(update={"api_requests_per_s": 3.0})
    with running_api(slow) as api, api.client(OWN) as own, api.client(OTHER) as other, api.client(None) as nobody:
        answers = [own.get("/api/v1/model") for _ in range(30)]
        assert {one.status_code for one in answers} == {200, 429}
        turned_away = next(one for one in answers if one.status_code == 429)
        assert int(turned_away.headers["retry-after"]) >= 1
        assert protected(turned_away)
        assert other.get("/api/v1/model").status_code == 200
        guesses = [nobody.post("/session", json={"key": f"x{n}"}, headers={"Origin": api.url}) for n in range(130)]
        assert {one.status_code for one in guesses} == {401, 429}
