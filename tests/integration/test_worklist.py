"""The worklist's requests, as a page or another program makes them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from connectors.kafka import OutMessage
from healthalliance.api.sessions import COOKIE
from healthalliance.progress import fetch, wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.integration import eventful
from tests.integration.eventful import one_event
from tests.integration.reading import latest_risk
from tests.integration.running import Trained, wait_until
from tests.integration.running_api import Api, running_api
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

OWN = "ukhd"


@pytest.fixture(scope="module")
def own(api: Api) -> Iterator[httpx2.Client]:
    with api.client(OWN) as client:
        yield client


def send(trained: Trained, name: str, *resources: dict[str, Any]) -> None:
    eventful.send(trained.settings, one_event(OWN, name, bundle(*resources)))
    wait_until_applied(trained.settings, 120)


def scored(trained: Trained, name: str) -> dict[str, Any]:
    send(trained, name, encounter(f"{name}-e", patient=name), patient(name))
    return latest_risk(trained.settings, OWN, [f"{name}-e"])[f"{name}-e"]


def path_of(row: dict[str, Any], *more: str) -> str:
    return "/".join(("/api/v1/worklist", str(row["encounter_pseudonym"]), *more))


def listed(client: httpx2.Client, row: dict[str, Any], **query: Any) -> dict[str, Any] | None:
    response = client.get("/api/v1/worklist", params={"order": "newest", "limit": 200, **query})
    assert response.status_code == 200, response.text
    wanted = str(row["encounter_pseudonym"])
    return next((one for one in response.json()["entries"] if one["encounter_pseudonym"] == wanted), None)


def problem(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:healthalliance:problem:")


def test_an_encounter_is_listed_with_all_that_the_page_shows(own: httpx2.Client, trained: Trained) -> None:
    row = scored(trained, "list-1")
    send(trained, "list-1", *(condition(f"list-c{n}", patient="list-1", code=f"C{n}") for n in range(10, 16)))
    entry = listed(own, row)
    assert entry is not None
    assert (entry["patient"], entry["encounter"]) == ("Patient/list-1", "Encounter/list-1-e")
    assert entry["probability"] == entry["trend"][-1]["probability"]
    assert [point["reason"] for point in entry["trend"]] == [None, "history-changed"]
    assert entry["stay"]["inpatient"]
    assert entry["stay"]["admitted_at"]
    assert entry["mark"] == {"acknowledged": False, "acknowledged_at": None, "snoozed_until": None}
    assert entry["reasons"]
    assert listed(own, row, language="de", inpatient=False) is None
    assert own.get(path_of(row)).json() == entry


def test_an_acknowledgement_holds_until_the_risk_is_in_a_higher_band(own: httpx2.Client, trained: Trained) -> None:
    row = scored(trained, "list-2")
    seen = own.put(path_of(row, "acknowledgement"), json={"record_id": str(row["record_id"])})
    assert seen.json()["acknowledged"]
    assert listed(own, row) is None
    entry = listed(own, row, quiet=True)
    assert entry is not None
    assert entry["mark"]["acknowledged"]
    send(trained, "list-2", condition("list-2-c", patient="list-2"))
    assert listed(own, row) is None, "another score in the same band"
    fetch(  # as if that score had been in the lowest band, and the one that stands in the highest
        trained.settings, "UPDATE risk_scores SET band = 'low' WHERE record_id = $1", row["record_id"]
    )
    fetch(
        trained.settings,
        "UPDATE risk_scores SET band = 'high' WHERE encounter_pseudonym = $1 AND superseded_by IS NULL",
        row["encounter_pseudonym"],
    )
    assert listed(own, row) is not None
    assert own.delete(path_of(row, "acknowledgement")).status_code == 204


def test_a_snooze_ends_by_itself_or_is_taken_back(own: httpx2.Client, trained: Trained) -> None:
    row = scored(trained, "list-3")
    until = datetime.now(UTC) + timedelta(seconds=2)
    assert own.put(path_of(row, "snooze"), json={"until": until.isoformat()}).status_code == 200
    assert listed(own, row) is None
    wait_until("the snooze is over", lambda: listed(own, row) is not None, 10)
    assert datetime.now(UTC) >= until
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    assert own.put(path_of(row, "snooze"), json={"until": later}).status_code == 200
    assert own.delete(path_of(row, "snooze")).status_code == 204
    assert listed(own, row) is not None


def test_bad_requests_change_nothing(own: httpx2.Client, api: Api, trained: Trained) -> None:
    row = scored(trained, "list-4")
    record = {"record_id": str(row["record_id"])}
    past, far = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 31))
    with api.client("dkfz") as other, api.client(None) as nobody:
        assert listed(other, row, quiet=True) is None
        assert problem(other.get(path_of(row))) == (404, "unknown-encounter")
        assert problem(other.put(path_of(row, "acknowledgement"), json=record)) == (404, "unknown-encounter")
        assert problem(nobody.get("/api/v1/worklist")) == (401, "no-key")
        assert problem(nobody.get("/api/v1/worklist/events")) == (401, "no-key")
        other.delete(path_of(row, "snooze"))
    assert problem(own.put(path_of(row, "acknowledgement"), json={"record_id": str(uuid4())}))[0] == 404
    assert problem(own.put(path_of(row, "acknowledgement"), json={"nonsense": 1})) == (422, "invalid")
    for until in (past.isoformat(), far.isoformat(), "tomorrow", "2027-01-01T00:00:00"):
        assert problem(own.put(path_of(row, "snooze"), json={"until": until})) == (422, "invalid")
    assert problem(own.get("/api/v1/worklist", params={"limit": 5000})) == (422, "invalid")
    assert fetch(trained.settings, "SELECT 1 FROM worklist_marks WHERE encounter_pseudonym = $1",
                 row["encounter_pseudonym"]) == []  # fmt: skip


def test_an_erased_patient_leaves_no_mark(own: httpx2.Client, trained: Trained) -> None:
    row = scored(trained, "list-5")
    own.put(path_of(row, "acknowledgement"), json={"record_id": str(row["record_id"])})
    eventful.send(trained.settings, OutMessage(topic_name(TopicFamily.ENCOUNTERS, OWN), b"Patient/list-5", None))
    wait_until_applied(trained.settings, 120)
    assert own.get(path_of(row)).status_code == 404
    assert fetch(trained.settings, "SELECT 1 FROM worklist_marks WHERE encounter_pseudonym = $1",
                 row["encounter_pseudonym"]) == []  # fmt: skip


# --- signed-in browsers


@contextmanager
def signed_in(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, timeout=30) as client:
        response = client.post("/session", json={"key": api.keys[OWN]}, headers={"Origin": api.url})
        assert response.status_code == 204, response.text
        yield client


def test_a_session_opens_what_its_key_opens(api: Api, trained: Trained) -> None:
    row = scored(trained, "list-6")
    with signed_in(api) as browser:
        assert listed(browser, row) is not None
        assert browser.get("/api/v1/model").json()["version"]
        assert browser.delete("/session", headers={"Origin": api.url}).status_code == 204
        assert browser.get("/api/v1/worklist").status_code == 401


@pytest.mark.parametrize("origin", [None, "https://elsewhere.example", "null"])
def test_another_sites_page_changes_nothing(api: Api, trained: Trained, origin: str | None) -> None:
    row = scored(trained, "list-7")
    headers = {} if origin is None else {"Origin": origin}
    with signed_in(api) as browser:
        seen = browser.put(path_of(row, "acknowledgement"), json={"record_id": str(row["record_id"])}, headers=headers)
        assert problem(seen) == (403, "cross-site")
        assert listed(browser, row) is not None


def test_a_changed_session_is_none(api: Api) -> None:
    with signed_in(api) as browser:
        institution, until, signature = str(browser.cookies[COOKIE]).split(".")
    for value in (
        f"dkfz.{until}.{signature}",
        f"{institution}.{int(until) + 1}.{signature}",
        f"{institution}.{until}.{'0' * 64}",
        f"{institution}.1.{signature}",
        "nonsense",
        "a.b.c",
    ):
        response = httpx2.get(f"{api.url}/api/v1/worklist", headers={"Cookie": f"{COOKIE}={value}"})
        assert response.status_code == 401, value


# --- events


def test_who_watches_is_told_of_each_commit_and_the_server_stops_all_the_same(trained: Trained) -> None:
    told: list[float] = []
    with running_api(trained.settings) as api, api.client(OWN) as client:

        def watch() -> None:
            with client.stream("GET", "/api/v1/worklist/events", timeout=60) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                for line in response.iter_lines():
                    if line == "event: changed":
                        told.append(time.monotonic())
                    elif line.startswith("data: "):
                        assert json.loads(line.removeprefix("data: ")) == {}

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        wait_until("told at once", lambda: len(told) == 1, 10)  # where things stand at first
        scored(trained, "list-8")
        wait_until("told of the commit", lambda: len(told) >= 2, 5)
    watching.join(5)  # the context's end asks for exit code 0 of an API that stops in time
    assert not watching.is_alive()
