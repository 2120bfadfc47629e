"""FHIR that comes in over HTTP, read as the stream would read it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import Request, Response

from healthalliance.api.bodies import media_type, read_body
from healthalliance.api.histories import stored_histories
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.service import Service
from schemas.history import PatientHistory
from schemas.intake.event import ParsedEvent, RawEvent, parse_event
from schemas.rejection import Issue, operation_outcome
from streams.decision import Event, PatientKey, Sender, patients_of

MEDIA_TYPE = "application/fhir+json"
JSON = "application/json"
_IN_A_THREAD = 20_000  # bytes; less is read in well under a millisecond

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "object", "description": "a FHIR R4 resource or Bundle"}}},
    }
}


async def read_event(request: Request, service: Service, sender: Sender, patient_id: str | None) -> Event:
    """Read the request's body as one event of the sender; `patient_id` is who it is about, where it says not itself.

    Raises ProblemError 415 for another media type, and as `read_body` does.
    """
    if media_type(request) not in (MEDIA_TYPE, JSON):
        raise ProblemError(415, "media-type", f"Send {MEDIA_TYPE}.")
    value = await read_body(request, service.limits.max_bytes, service.settings.api_body_timeout_s)
    return await event_of(value, service, sender, patient_id)


async def event_of(value: bytes, service: Service, sender: Sender, patient_id: str | None = None) -> Event:
    """Read bytes as one event of the sender, a large one beside the event loop; see `read_event`."""
    key = f"Patient/{patient_id}".encode() if patient_id else None
    raw = RawEvent("", 0, 0, key, value, datetime.now(UTC))
    if len(value) < _IN_A_THREAD:
        return Event(raw, _parse(raw, service, sender), sender, "")
    return Event(raw, await asyncio.to_thread(_parse, raw, service, sender), sender, "")


async def histories_of(service: Service, event: Event) -> dict[PatientKey, PatientHistory]:
    """Read what is stored of the patients that an event names."""
    institution = event.sender.institution.id
    stored = await stored_histories(service, event.sender, [pseudonym for _, pseudonym in patients_of([event])])
    return {(institution, pseudonym): history for pseudonym, history in stored.items()}


def _parse(raw: RawEvent, service: Service, sender: Sender) -> ParsedEvent:
    return parse_event(raw, sender.institution, service.limits, service.validate)


OUTCOME: dict[str, Any] = {"schema": {"type": "object", "description": "a FHIR R4 OperationOutcome"}}


def describes_refusal() -> dict[int | str, dict[str, Any]]:
    """Say in the OpenAPI document that 422 is a problem, or an OperationOutcome that names the elements."""
    problem = describes(422)[422]["content"]
    return {422: {"description": "Not accepted", "content": {MEDIA_TYPE: OUTCOME, **problem}}}


def issues_of(parsed: ParsedEvent) -> tuple[Issue, ...]:
    """List all that keeps an event, or a part of it, from being applied."""
    return (*parsed.issues, *parsed.unsupported)


def refusal(issues: tuple[Issue, ...]) -> Response:
    """Answer 422 with an OperationOutcome that names each element."""
    return Response(orjson.dumps(operation_outcome(issues)), 422, media_type=MEDIA_TYPE)
