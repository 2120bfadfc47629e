"""Validate and score FHIR files with the stream's own core, without Kafka or PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from connectors.fhir_files import read_events
from connectors.fhir_files.documents import fhir_files, read_documents
from connectors.settings import Settings
from connectors.source_event import SourceEvent
from schemas.history import PatientHistory
from schemas.institutions import Institution
from schemas.intake.event import RawEvent, parse_event, parse_events
from schemas.intake.event_bytes import read_json
from schemas.intake.structure import structure_validator
from schemas.messages import RiskScore
from schemas.model import Model
from schemas.pseudonyms import institution_keys
from schemas.rejection import Issue
from streams.decision import EncounterKey, Event, Known, PatientKey, Sender, decide
from streams.scoring import score

_T = TypeVar("_T")


def validate_files(paths: Iterable[Path], institution: Institution, settings: Settings) -> Iterator[dict[str, Any]]:
    """Judge each resource (each line of NDJSON) of the files; a Bundle is one, its entries are in the paths."""
    limits, validate = settings.event_limits, structure_validator(settings.structure_validator)
    now = datetime.now(UTC)
    for path in fhir_files(paths):
        for index, document in enumerate(read_documents(path)):
            raw = RawEvent("", 0, 0, None, document.value, now)
            issues = parse_event(raw, institution, limits, validate).issues
            found = read_json(document.value, limits)
            yield {
                "file": str(path),
                "index": index,
                "resource_type": None if isinstance(found, Issue) else found.get("resourceType"),
                "valid": not issues,
                "issues": [{"code": str(one.reason), "path": one.path, "text": one.text} for one in issues],
            }


def score_files(
    paths: Iterable[Path], institution: Institution, settings: Settings, model: Model
) -> tuple[list[RiskScore], int]:
    """Score the encounters of files as the stream would; return each one's last score, and how many events failed."""
    sender = Sender(institution, institution_keys(secrets.token_hex(32), institution.id))
    limits, validate = settings.event_limits, structure_validator(settings.structure_validator)
    histories: dict[PatientKey, PatientHistory] = {}
    patient_of: dict[EncounterKey, str | None] = {}
    scores: dict[str, RiskScore] = {}
    rejected, now = 0, datetime.now(UTC)
    for batch in _batches(enumerate(read_events(paths)), settings.batch_max_events):
        raws = [_raw(offset, event, now) for offset, event in batch]
        parsed = parse_events(raws, institution, limits, validate)
        events = [Event(raw, one, sender, "") for raw, one in zip(raws, parsed, strict=True)]
        decision = decide(events, Known(histories, patient_of), model.version)
        histories |= decision.histories
        patient_of |= decision.patient_of
        rejected += len(decision.rejected)
        erased = {pseudonym for _, (_, pseudonym), _ in decision.erased}
        scores = {reference: one for reference, one in scores.items() if one.patient_pseudonym not in erased}
        for one in score(decision.to_score, model, now):
            scores[one.encounter_reference] = one
    return [one for one in scores.values() if one.probability is not None], rejected


def score_line(one: RiskScore) -> dict[str, Any]:
    """Render a score as the `score` command prints it."""
    return {
        "encounter_id": one.encounter_reference.partition("/")[2],
        "patient_id": one.patient_reference.partition("/")[2],
        "version": one.encounter_version,
        "as_of": one.as_of.isoformat(),
        "features": vars(one.features) if one.features else None,
        "probability": one.probability,
        "band": one.band,
        "baseline": one.baseline,
        "contributions": one.contributions,
        "model_version": one.model_version,
        "inpatient": one.inpatient,
    }


def _raw(offset: int, event: SourceEvent, now: datetime) -> RawEvent:
    return RawEvent("", 0, offset, event.key, event.value, now)


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
