"""All that is stored of one patient, readable: for the patient's access (GDPR, Art. 15)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from connectors.patient_rows import read_rejections, read_rows
from connectors.score_reading import STORED_COLUMNS, stored_score
from connectors.settings import Settings
from connectors.store import rows_of_patient
from healthalliance.patient_search import Found, look, people_of, with_database
from healthalliance.training_ledger import models_of
from schemas.history import PatientHistory
from schemas.risk_assessment import risk_assessment
from schemas.topics import TopicFamily, topic_name

_FORMAT = "healthalliance-patient-export"
_TABLES = ("challenger_scores", "score_outcomes", "worklist_marks", "cds_cards", "alerts", "alert_standings")


def export_patient(settings: Settings, institution: str, patient_id: str) -> dict[str, Any]:
    """Read all that the stores hold of a patient of the institution's, by the institution's own id.

    Scores are FHIR R4 RiskAssessments in a Bundle; the rest is named as the tables' columns and the history's fields.
    Raises ConfigurationError without PSEUDONYM_KEY or with another one, UnavailableError where a store does not answer.
    """
    [found], _ = look(settings, people_of(settings, institution, [patient_id]))
    named = (
        {found.person.keys.encounter_pseudonym(id_): id_ for id_ in found.history.encounters} if found.history else {}
    )
    rows, scores, rejections = with_database(settings, lambda connection: _read(connection, found))
    return {
        "format": _FORMAT,
        "version": 1,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "institution": institution,
        "patient": f"Patient/{found.person.id}",
        "patient_pseudonym": found.person.pseudonym,
        "history": _history(found.history),
        "encounter_pseudonyms": {f"Encounter/{id_}": pseudonym for pseudonym, id_ in sorted(named.items())},
        "risk_assessments": _bundle(scores, f"Patient/{found.person.id}", named),
        **rows,
        "rejected_events": rejections,
        "topics": _topics(found),
        "models": [asdict(one) for one in models_of(settings, found)],
        "snapshots": [str(folder) for folder in found.files.folders],
        "recipients": _recipients(institution),
    }


async def _read(
    connection: asyncpg.Connection[Any], found: Found
) -> tuple[dict[str, list[dict[str, Any]]], list[Any], list[dict[str, Any]]]:
    rows = await read_rows(connection, found.person, found.encounters, _TABLES)
    scores = await connection.fetch(
        f"SELECT {STORED_COLUMNS} FROM risk_scores AS score WHERE {rows_of_patient('risk_scores')} ORDER BY scored_at",
        found.person.institution,
        found.person.pseudonym,
        list(found.encounters),
    )
    rejections = [dict(row) for row in await read_rejections(connection, found.rejections.own)]
    return rows, [stored_score(row) for row in scores], rejections


def _history(history: PatientHistory | None) -> dict[str, Any] | None:
    """Name the fields of a history, which is stored without their names."""
    if history is None:
        return None
    named: dict[str, Any] = {
        "patient": _held(history.patient) if history.patient else None,
        **{
            kind: {id_: _held(held) for id_, held in getattr(history, kind).items()}
            for kind in ("encounters", "conditions", "medications")
        },
        "events_are_refused": history.refused,
    }
    return named


def _held(held: Any) -> dict[str, Any]:
    facts = msgspec.structs.asdict(held.facts) if held.facts is not None else None
    return {"version": str(held.version), "facts": facts}


def _bundle(scores: list[Any], patient: str, encounters: Mapping[str, str]) -> dict[str, Any]:
    assessments = [
        risk_assessment(one, patient, f"Encounter/{encounters[one.encounter_pseudonym]}")
        if one.encounter_pseudonym in encounters
        else risk_assessment(one, patient, None)
        for one in scores
    ]
    entries = [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in assessments]
    return {"resourceType": "Bundle", "type": "collection", **({"entry": entries} if entries else {})}


def _topics(found: Found) -> dict[str, int]:
    """Count the records of the patient on the topics that the workers write."""
    institution = found.person.institution
    return {
        topic_name(TopicFamily.RISK, institution): found.risk.live,
        topic_name(TopicFamily.FEATURES, institution): sum(one.live > 0 for one in found.features.values()),
        topic_name(TopicFamily.REJECTED, institution): len(found.rejections.own) + found.rejections.shared,
    }


def _recipients(institution: str) -> list[dict[str, str]]:
    own = "the institution's own systems, and the people that its alerting tells"
    return [
        {"what": topic_name(TopicFamily.ENCOUNTERS, institution), "who": "the workers; kept for 30 days"},
        {"what": topic_name(TopicFamily.RISK, institution), "who": own},
        {"what": topic_name(TopicFamily.REJECTED, institution), "who": own},
        {"what": topic_name(TopicFamily.FEATURES, institution), "who": "training, by pseudonym"},
        {"what": "tables and exports", "who": "analysts, by pseudonym; the institution over the API"},
    ]


def write_export(document: str, out: Path) -> None:
    """Write an export readable by its owner only."""
    out.touch(0o600)
    out.write_text(document + "\n", "utf-8")
