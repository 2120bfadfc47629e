"""A hospital's trace from its request through batch and commit to the score, as a collector sees it; and the logs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import Received, ends_of, read_since
from tests.integration.running import Trained, ready_worker, wait_until
from tests.integration.running_api import running_api
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes

pytestmark = pytest.mark.stack

INSTITUTION = "dkfz"
OVER_HTTP, OVER_KAFKA, BROKEN = ("0af7651916cd43dd8448eb211c80319c", "1" * 32, "2" * 32)
MARKS = (b"traced-http", b"traced-kafka", b"traced-silent", b"Tracermann")


@dataclass(slots=True)
class Collector:
    """An OpenTelemetry collector that keeps what it is sent."""

    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> dict[str, list[Span]]:
        """List the spans of each service."""
        found: dict[str, list[Span]] = {}
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    found.setdefault(service, []).extend(scope.spans)
        return found


@contextmanager
def running_collector() -> Iterator[tuple[str, Collector]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", collector
        server.shutdown()


@dataclass(frozen=True, slots=True)
class Traced:
    """What became of three events with a trace and one without."""

    spans: dict[str, list[Span]]
    sent: bytes
    risk: dict[bytes, Received]
    rejected: list[Received]
    log: str


def traceparent(trace_id: str) -> str:
    return f"00-{trace_id}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def traced(trained: Trained, no_worker: None) -> Iterator[Traced]:
    with running_collector() as (address, collector):
        settings = trained.settings.model_copy(
            update={"otel_exporter_otlp_endpoint": address, "log_format": "json", "log_level": "DEBUG"}
        )
        risk, rejected = (topic_name(one, INSTITUTION) for one in (TopicFamily.RISK, TopicFamily.REJECTED))
        starts = ends_of(settings, risk), ends_of(settings, rejected)
        log = settings.data_dir / "logs" / "worker.log"
        before = log.stat().st_size if log.exists() else 0
        with ready_worker(settings), running_api(settings) as api:
            with api.client(INSTITUTION) as client:
                posted = client.post(
                    f"/api/v1/institutions/{INSTITUTION}/encounters",
                    content=_event("traced-http"),
                    headers={"Content-Type": "application/fhir+json", "traceparent": traceparent(OVER_HTTP)},
                )
            assert posted.status_code == 202
            _publish(settings, "traced-kafka", _event("traced-kafka"), OVER_KAFKA)
            _publish(settings, "traced-silent", _event("traced-silent"), None)
            _publish(settings, "traced-kafka", b'{"resourceType": "Encounter", "id": "Tracermann"', BROKEN)
            wait_until_applied(settings, 120)
            wait_until("scores are there", lambda: len(_scores(settings, risk, starts[0])) == 3)
        yield Traced(
            collector.spans(),
            b"".join(collector.bodies),
            _scores(settings, risk, starts[0]),
            read_since(settings, rejected, starts[1]),
            log.read_bytes()[before:].decode(),
        )


def _event(name: str) -> bytes:
    return to_bytes(bundle(encounter(f"{name}-e", patient=name), patient(name)))


def _publish(settings: Settings, name: str, value: bytes, trace_id: str | None) -> None:
    headers = (("traceparent", traceparent(trace_id).encode()),) if trace_id else ()
    message = OutMessage(topic_name(TopicFamily.ENCOUNTERS, INSTITUTION), f"Patient/{name}".encode(), value, headers)
    Publisher(settings).publish([message])


def _scores(settings: Settings, topic: str, starts: dict[int, int]) -> dict[bytes, Received]:
    return {one.key: one for one in read_since(settings, topic, starts) if one.key}


def _trace_of(one: Received) -> str:
    return dict(one.headers)["traceparent"].decode().split("-")[1]


def test_a_score_is_in_its_events_trace_whichever_way_that_came(traced: Traced) -> None:
    assert _trace_of(traced.risk[b"Patient/traced-http"]) == OVER_HTTP
    assert _trace_of(traced.risk[b"Patient/traced-kafka"]) == OVER_KAFKA


def test_an_event_without_a_trace_has_its_score_in_the_batchs(traced: Traced) -> None:
    batches = {one.trace_id.hex() for one in traced.spans["healthalliance-worker"] if one.name == "process batch"}
    assert _trace_of(traced.risk[b"Patient/traced-silent"]) in batches


def test_a_rejected_event_keeps_its_trace(traced: Traced) -> None:
    [one] = [one for one in traced.rejected if b"Tracermann" in (one.value or b"")]
    assert _trace_of(one) == BROKEN


def test_the_batch_is_linked_to_each_of_its_events_traces(traced: Traced) -> None:
    batches = [one for one in traced.spans["healthalliance-worker"] if one.name == "process batch"]
    assert {link.trace_id.hex() for one in batches for link in one.links} == {OVER_HTTP, OVER_KAFKA, BROKEN}
    assert all(one.end_time_unix_nano > one.start_time_unix_nano for one in batches)


def test_a_batchs_steps_lie_below_it(traced: Traced) -> None:
    spans = traced.spans["healthalliance-worker"]
    for batch in (one for one in spans if one.name == "process batch"):
        steps = [one.name for one in spans if one.parent_span_id == batch.span_id]
        assert steps == ["read", "load", "decide", "write", "publish"]


def test_the_apis_part_is_in_the_hospitals_trace(traced: Traced) -> None:
    [published] = traced.spans["healthalliance-api"]
    assert (published.name, published.trace_id.hex()) == (f"publish encounters.{INSTITUTION}", OVER_HTTP)
    links = [link for one in traced.spans["healthalliance-worker"] for link in one.links]
    assert published.span_id in [link.span_id for link in links]


def test_no_span_names_a_patient_or_an_encounter(traced: Traced) -> None:
    assert traced.sent
    assert [mark for mark in MARKS if mark in traced.sent] == []


def test_each_line_of_the_log_is_an_object_and_names_nobody(traced: Traced) -> None:
    entries = [json.loads(line) for line in traced.log.splitlines()]
    assert [one for one in entries if not {"time", "level", "logger", "message"} <= one.keys()] == []
    assert [mark for mark in MARKS if mark.decode() in traced.log] == []
