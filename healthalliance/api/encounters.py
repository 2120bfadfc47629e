"""`POST /api/v1/institutions/{id}/encounters`: events of hospitals that cannot speak Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from opentelemetry.trace import SpanKind

from connectors.intake_requests import Claim, claim, release, settle
from connectors.kafka import OutMessage
from connectors.tracing import HEADER, as_headers, own_traceparent, span, traceparent_of
from healthalliance.api import metrics
from healthalliance.api.callers import Caller, require_own
from healthalliance.api.fhir_events import BODY, MEDIA_TYPE, OUTCOME, describes_refusal, issues_of, read_event, refusal
from healthalliance.api.problems import ProblemError, describes, unavailable
from healthalliance.api.service import Service, Shared
from schemas.errors import UnavailableError
from schemas.intake.event import ParsedEvent
from schemas.rejection import Issue, Reason
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Sender

router = APIRouter(prefix="/api/v1", tags=["intake"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"description": "Published, and confirmed by the broker", "content": {MEDIA_TYPE: OUTCOME}},
    **describes(400, 401, 403, 408, 409, 413, 415, 429, 503),
    **describes_refusal(),
}


@router.post(
    "/institutions/{institution_id}/encounters",
    status_code=202,
    summary="Publish one event",
    responses=_ANSWERS,
    openapi_extra=BODY,
)
async def post_event(
    institution_id: str,
    request: Request,
    service: Shared,
    sender: Caller,
    patient: Annotated[
        str | None,
        Query(pattern=r"^[A-Za-z0-9\-.]{1,64}$", description="id of the Patient, where the body does not say"),
    ] = None,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="asking again with it publishes nothing more")
    ] = None,
    traceparent: Annotated[
        str | None, Header(description="W3C trace context, which goes on to the event's score")
    ] = None,
) -> Response:
    """Validate FHIR as the stream would and publish it to the institution's topic; answer once it is confirmed.

    What is not accepted is not published. All of an event is about one patient.
    """
    require_own(institution_id, sender)
    event = await read_event(request, service, sender, patient)
    if issues := issues_of(event.parsed) or _not_one_patient(event.parsed):
        metrics.INTAKE.labels(institution_id, "refused").inc()
        return refusal(issues)
    topic = topic_name(TopicFamily.ENCOUNTERS, institution_id)
    given = traceparent_of([(HEADER, traceparent.encode())]) if traceparent else None
    with (
        _place(service),
        span(f"publish {topic}", kind=SpanKind.PRODUCER, parent=given, messaging__system="kafka"),
    ):
        message = OutMessage(topic, _key(event), event.raw.value, as_headers(own_traceparent() or given))
        if idempotency_key is None:
            partition, offset = await _publish(service, message)
        else:
            partition, offset = await _publish_once(service, sender, message, idempotency_key)
    metrics.INTAKE.labels(institution_id, "published").inc()
    return _accepted(message.topic, partition, offset)


@contextmanager
def _place(service: Service) -> Iterator[None]:
    """Take one of the places of those who wait for Kafka; raise ProblemError 503 where none is left."""
    if service.in_flight >= service.settings.api_max_in_flight:
        raise unavailable("Too many events wait for Kafka.", 1)
    service.in_flight += 1
    try:
        yield
    finally:
        service.in_flight -= 1


async def _publish(service: Service, message: OutMessage) -> tuple[int, int]:
    try:
        return await service.publisher.publish(message)
    except UnavailableError:
        raise unavailable("Kafka did not confirm the event: send it again; twice does no harm.") from None


async def _publish_once(service: Service, sender: Sender, message: OutMessage, key: str) -> tuple[int, int]:
    institution, pool = sender.institution.id, service.pools[sender.institution.id]
    held = await claim(pool, institution, key, message.value or b"", datetime.now(UTC))
    match held:
        case Claim("done", int(partition), int(offset)):
            return partition, offset
        case Claim("other-body"):
            raise ProblemError(422, "idempotency-key", "This Idempotency-Key came before with another body.")
        case Claim("under-way"):
            raise ProblemError(
                409, "under-way", "A request with this Idempotency-Key is under way.", {"Retry-After": "1"}
            )
    try:
        partition, offset = await _publish(service, message)
    except BaseException:
        await release(pool, institution, key)
        raise
    await settle(pool, institution, key, partition, offset, datetime.now(UTC))
    return partition, offset


def _patients(parsed: ParsedEvent) -> set[str]:
    return {*parsed.erase, *(entry.patient_id for entry in parsed.entries if entry.patient_id is not None)}


def _not_one_patient(parsed: ParsedEvent) -> tuple[Issue, ...]:
    if len(_patients(parsed)) > 1:
        return (Issue(Reason.UNSUPPORTED_BUNDLE, "Bundle", "A Bundle over HTTP is about one patient."),)
    if not parsed.entries and not parsed.erase:
        return (Issue(Reason.UNSUPPORTED_BUNDLE, "Bundle.entry", "There is nothing in it that is taken in."),)
    return ()


def _key(event: Event) -> bytes:
    """Name the patient, so that the patient's events keep their order; else the encounter that is deleted."""
    patient = next(iter(_patients(event.parsed)), None)
    return f"Patient/{patient}".encode() if patient else f"Encounter/{event.parsed.entries[0].id}".encode()


def _accepted(topic: str, partition: int, offset: int) -> Response:
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "information",
                "code": "informational",
                "diagnostics": f"Published to {topic}, partition {partition}, offset {offset}.",
            }
        ],
    }
    return Response(orjson.dumps(outcome), 202, media_type=MEDIA_TYPE)
