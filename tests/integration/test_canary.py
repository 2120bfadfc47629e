"""Marked patients go every way that events go, and no mark is found anywhere but on the institutions' own topics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from shutil import rmtree
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from confluent_kafka.cimpl import NewTopic

from connectors.kafka import Admin, OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from schemas.rejection import Reason
from schemas.topics import TopicFamily, topic_name
from tests.integration import marked, shared_places
from tests.integration.alerting import Alerts, Receiver
from tests.integration.asking import ask
from tests.integration.command_line import run
from tests.integration.marked import MARK, NAME, hits
from tests.integration.reading import ends_of, keys_of, read_since
from tests.integration.running import Trained, new_workers, ready_worker, wait_until
from tests.integration.running_api import Api, running_api
from tests.integration.shared_places import Place
from tests.integration.test_tracing import Collector, running_collector
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

OWN = "embl"
EVENTS = 2_000
_OWN_TOPICS = [topic_name(family, OWN) for family in (TopicFamily.ENCOUNTERS, TopicFamily.RISK, TopicFamily.REJECTED)]
_CRASHED = "qzxkanarie-p0"


@dataclass(slots=True)
class Canary:
    """What was left behind: a stack, and what processes, collectors and receivers said or got."""

    settings: Settings = field(repr=False)
    starts: Mapping[str, Mapping[int, int]] = field(repr=False)  # where the institution's own topics ended before
    said: list[Place] = field(default_factory=list, repr=False)
    posted: int = 0
    crash: str = ""

    def places(self) -> Iterator[Place]:
        """Yield all that is shared."""
        yield from self.said
        yield from shared_places.tables(self.settings)
        yield from shared_places.topics(self.settings)
        yield from shared_places.kafka_itself(self.settings)
        yield from shared_places.schema_registry(self.settings)
        yield from shared_places.files(self.settings.data_dir)


@pytest.fixture(scope="module")
def canary(trained: Trained) -> Iterator[Canary]:
    with running_collector() as (address, collector):
        settings = trained.settings.model_copy(
            update={"otel_exporter_otlp_endpoint": address, "log_format": "json", "log_level": "DEBUG"}
        )
        found = Canary(settings, {topic: ends_of(settings, topic) for topic in _OWN_TOPICS})
        with ready_worker(settings) as workers:
            _events(settings)
            with running_api(settings) as api:
                _requests(api, found)
            _requeued(settings, found)
            wait_until_applied(settings, 240)
            found.said += [
                (f"the worker's {path}", ask(workers, path).text.encode()) for path in ("/metrics", "/readyz")
            ]
        _crash(settings, found)
        _alerts(settings, found)
        _commands(settings, found)
        found.said += [("spans", body) for body in _sent(collector)]
        yield found
        _leave_nothing(settings)


def _events(settings: Settings) -> None:
    publisher = Publisher(settings)
    publisher.publish(marked.good_events(OWN, EVENTS))
    publisher.publish(marked.refused_events(OWN))
    wait_until_applied(settings, 240)


def _requests(api: Api, found: Canary) -> None:
    """Ask everything over HTTP with marks in paths, queries, headers and bodies, allowed and not."""
    path = f"/api/v1/institutions/{OWN}/encounters"
    fhir = {"Content-Type": "application/fhir+json"}
    carried = {
        "User-Agent": MARK,
        "X-Request-Id": MARK,
        "traceparent": MARK,
        "baggage": f"patient={MARK}",
        "Cookie": MARK,
    }
    with api.client(OWN) as client, api.client("dkfz") as other, api.client(None) as nobody:
        client.headers.update(carried)

        def post(body: Any, to: str = path, by: httpx2.Client = client, once: str = "") -> int:
            content = body if isinstance(body, bytes) else to_bytes(body)
            return by.post(to, content=content, headers=fhir | ({"Idempotency-Key": once} if once else {})).status_code

        event = bundle(*marked.everything(9_001))
        assert [post(event, once=MARK) for _ in range(2)] == [202, 202]
        assert post(patient(f"{MARK}-x"), once=MARK) == 422
        assert post(event, by=other) == 403
        assert post(event, by=nobody) == 401
        for refused in marked.refused_events(OWN):
            if refused.value is not None and len(refused.value) < 1_000_000:
                post(refused.value)
        for to in ("/api/v1/predict", "/api/v1/predict?history=true"):
            assert post(event, to) == 200
            post(patient(f"{MARK}-x", gender=NAME), to)
        unknown = {"age": 80, MARK: NAME, "gender_encoded": NAME}
        assert client.post("/api/v1/predict", json=unknown).status_code == 422
        _hooks(client, event)
        for one in (f"/{MARK}", f"/api/v1/worklist/{MARK}", f"/api/v1/scores/{MARK}", f"/api/v1/risk?encounter={MARK}",
                    f"/api/v1/worklist?language={MARK}", f"/api/v1/institutions/{MARK}", f"/page/{MARK}"):  # fmt: skip
            assert client.get(one).status_code in (200, 404, 405, 422), one
        client.post("/session", json={"key": MARK, NAME: MARK}, headers={"Origin": api.url})
        assert client.get("/api/v1/worklist", params={"limit": 200, "order": "newest"}).status_code == 200
    found.said.append(("the API's metrics", httpx2.get(api.metrics_url).content))


def _hooks(client: httpx2.Client, event: dict[str, Any]) -> None:
    service = "/cds-services/readmission-risk"
    asked = {
        "hook": "encounter-discharge",
        "hookInstance": str(uuid4()),
        "fhirServer": f"https://{MARK}.example.org",
        "context": {"userId": f"Practitioner/{MARK}", "patientId": f"{MARK}-cds", "encounterId": f"{MARK}-cds-e"},
        "prefetch": {
            "patient": {**event["entry"][0]["resource"], "id": f"{MARK}-cds"},
            "encounter": encounter(f"{MARK}-cds-e", patient=f"{MARK}-cds"),
        },
    }
    [card] = client.post(service, json=asked).json()["cards"]
    told = {"card": card["uuid"], "outcome": "overridden", "outcomeTimestamp": "2026-01-05T10:00:00Z",
            "overrideReason": {"reason": {"code": MARK, "display": NAME}, "userComment": f"{MARK} {NAME}"}}  # fmt: skip
    assert client.post(f"{service}/feedback", json={"feedback": [told]}).status_code == 200
    client.post(service, json={**asked, "context": {"patientId": NAME, MARK: MARK}})
    client.post(f"{service}/feedback", json={"feedback": [{**told, MARK: NAME, "card": MARK}]})


def _requeued(settings: Settings, found: Canary) -> None:
    """Show, judge, redrive and put aside what was rejected."""
    rows = fetch(settings, "SELECT source_partition, source_offset FROM rejected_events WHERE institution = $1 "
                           "ORDER BY received_at DESC LIMIT 2", OWN)  # fmt: skip
    first, second = (f"{OWN}/{row['source_partition']}/{row['source_offset']}" for row in rows)
    for arguments in (
        ("list", "--all"),
        ("show", first),
        ("redrive", "-i", OWN, "--go"),
        ("discard", second, "--because", "a test"),
    ):
        found.said.append(_run(settings, "rejected", *arguments))
    assert MARK in run(settings, "rejected", "show", first, "--reveal").stdout  # for the institution's own eyes


def _run(settings: Settings, *arguments: object, **variables: str) -> Place:
    ended = run(settings, *arguments, timeout_s=240.0, LOG_LEVEL="DEBUG", **variables)
    assert ended.code == 0, ended.stderr
    return f"healthalliance {' '.join(map(str, arguments))}", f"{ended.stdout}\n{ended.stderr}".encode()


def _crash(settings: Settings, found: Canary) -> None:
    """Have the database refuse a batch's rows and quote them, so that the worker ends; then let them in."""
    log = settings.data_dir / "logs" / "worker.log"
    before = log.stat().st_size
    fetch(settings, "ALTER TABLE risk_scores ADD CONSTRAINT refuses CHECK (false) NOT VALID")
    try:
        with new_workers(settings) as workers:
            Publisher(settings).publish([marked.message(OWN, f"Patient/{_CRASHED}", marked.everything(9_002)[1])])
            assert workers.pids()
            wait_until("the worker has ended", lambda: b"could not be applied" in log.read_bytes()[before:], 180)
    finally:
        fetch(settings, "ALTER TABLE risk_scores DROP CONSTRAINT refuses")
    found.crash = log.read_bytes()[before:].decode("utf-8", "replace")
    with ready_worker(settings):
        wait_until_applied(settings, 240)


def _alerts(settings: Settings, found: Canary) -> None:
    channel = f"canary-{uuid4().hex[:8]}"
    with Receiver() as receiver:
        own = settings.model_copy(update={"alert_webhook_url": receiver.url})
        arguments = ("-i", OWN, "--min-band", "low", "--sink", "webhook", "--channel", channel, "--from-beginning")
        with Alerts(own, *arguments):
            receiver.wait_for(5)
        found.posted = len(receiver.posted)
    found.said.append(_run(settings, "alerts", "-i", OWN, "--min-band", "low", "--once", "--json"))


def _commands(settings: Settings, found: Canary) -> None:
    """Read, train, replay and report what the events have left, into the data folder."""
    to = settings.data_dir / "canary"
    to.mkdir()
    [row] = fetch(settings, "SELECT record_id::text FROM risk_scores WHERE institution = $1 "
                            "ORDER BY scored_at DESC LIMIT 1", OWN)  # fmt: skip
    today = datetime.now(UTC).date().isoformat()
    found.said += [
        _run(settings, "explain", row["record_id"], "--json"),
        _run(settings, "status", "--json"),
        _run(settings, "report", "--out", to / "report.html"),
        _run(settings, "snapshot", "export", to / "snapshot"),
        _run(settings, "replay", "-i", OWN, "--from", today, "--into", "canary_replay"),
        _run(settings, "train", "--json", MLFLOW_TRACKING_URI=f"sqlite:///{to}/mlflow.db"),
    ]


def _leave_nothing(settings: Settings) -> None:
    """Erase the patients: later tests train on what the topics hold."""
    Publisher(settings).publish(marked.erasures(OWN, EVENTS))
    with ready_worker(settings):
        wait_until_applied(settings, 240)
    fetch(settings, "DROP SCHEMA canary_replay CASCADE")
    rmtree(settings.data_dir / "canary")


def _sent(collector: Collector) -> list[bytes]:
    wait_until("spans came", lambda: bool(collector.spans().get("healthalliance-worker")))
    return list(collector.bodies)


def test_the_marks_were_taken_in(canary: Canary) -> None:
    """Else nothing that follows says anything."""
    keys = keys_of(canary.settings, OWN)
    pseudonyms = [keys.patient_pseudonym(marked.person(number)) for number in range(EVENTS)]
    query = "SELECT count(*) AS n FROM patient_history WHERE patient_pseudonym = ANY($1::uuid[])"
    known = fetch(canary.settings, query, pseudonyms)
    assert known[0]["n"] > EVENTS / 2
    reasons = {row["reason"] for row in fetch(
        canary.settings, "SELECT DISTINCT reason FROM rejected_events WHERE institution = $1", OWN)}  # fmt: skip
    assert {*map(str, Reason)} - reasons <= {"depends-on-rejected", "patient-erased", "unreadable"}
    for topic, starts in canary.starts.items():
        received = read_since(canary.settings, topic, starts)
        assert sum(bool(hits((one.key or b"") + (one.value or b""))) for one in received) > 20, topic
    assert canary.posted


def test_no_mark_is_anywhere_but_on_the_institutions_own_topics(canary: Canary) -> None:
    found: dict[str, set[str]] = {}
    seen: dict[str, int] = {}
    for name, content in canary.places():
        kind = name.partition(" ")[0]
        seen[kind] = seen.get(kind, 0) + len(content)
        if forms := hits(content):
            found.setdefault(name, set()).update(forms)
    assert found == {}
    assert {"table", "topic", "schema", "file", "rows", "spans", "the", "consumer", "healthalliance"} <= seen.keys()
    assert all(seen.values()), seen


def test_a_crash_tells_where_it_happened_and_nothing_of_the_row(canary: Canary) -> None:
    entries = [json.loads(line) for line in canary.crash.splitlines()]
    [critical] = [one for one in entries if "could not be applied" in one["message"]]
    assert "CheckViolationError" in critical["exception"]
    keys = keys_of(canary.settings, OWN)
    assert keys.patient_pseudonym(_CRASHED) not in canary.crash
    assert "Failing row" not in canary.crash


@pytest.mark.parametrize(("form", "content"), list(marked.planted()))
def test_the_search_finds_a_mark_in_each_form(form: str, content: bytes) -> None:
    assert hits(b"\x00before" + content + b"after\xff")
    assert not hits(b"a kanarie, an ordinary bird, of 1903")


def test_the_search_finds_what_is_planted_in_each_place(canary: Canary) -> None:
    settings, place = canary.settings, f"planted-{uuid4().hex[:8]}"
    fetch(settings, f'CREATE TABLE "{place}" (a text, b bytea)')
    fetch(settings, f'INSERT INTO "{place}" VALUES ($1, NULL)', MARK)
    planted = settings.data_dir / "logs" / f"{place}.log"
    planted.write_text(NAME)
    # A topic of its own: whoever trains on this stack reads the feature topics.
    admin = Admin(settings)
    admin.answer(admin.client.create_topics([NewTopic(place, 1, 1)])[place], "create a topic")
    Publisher(settings).publish([OutMessage(place, b"key", None, ((MARK, b""),))])
    try:
        told = {name for name, content in canary.places() if hits(content)}
        assert {f'table public."{place}"', f"file {planted.relative_to(settings.data_dir)}",
                f"topic {place}"} <= told  # fmt: skip
        fetch(settings, f'UPDATE "{place}" SET a = NULL, b = $1', f"..{MARK}".encode())
        assert f'table public."{place}"' in {name for name, content in shared_places.tables(settings) if hits(content)}
    finally:
        fetch(settings, f'DROP TABLE "{place}"')
        planted.unlink()
        admin.answer(admin.client.delete_topics([place])[place], "delete a topic")
