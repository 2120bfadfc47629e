"""What a batch's results look like on the output topics: pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from connectors.kafka import OutMessage
from connectors.registry import to_wire
from connectors.tracing import as_headers
from schemas.messages import RiskScore
from schemas.rejection import Issue, operation_outcome
from schemas.topics import TopicFamily, topic_name
from streams.decision import FeaturesChange, Rejected

# A rejected event and its headers must fit into a message, whatever the sender wrote: one that does not would end
# every worker that meets it.
_LONGEST = 1_000


def risk_message(score: RiskScore, schema_ids: Mapping[str, int], traceparent: bytes | None) -> OutMessage:
    """Render a score for `risk.<institution>`, keyed by the patient, in its event's trace."""
    topic = topic_name(TopicFamily.RISK, score.institution)
    value = to_wire(schema_ids[topic], score)
    return OutMessage(topic, score.patient_reference.encode(), value, as_headers(traceparent))


def erasure_message(institution: str, patient_id: str) -> OutMessage:
    """Render the tombstone that removes an erased patient's scores from `risk.<institution>`."""
    return OutMessage(topic_name(TopicFamily.RISK, institution), f"Patient/{patient_id}".encode(), None)


def features_out(change: FeaturesChange, schema_ids: Mapping[str, int]) -> OutMessage:
    """Render an encounter's features, or their tombstone, for `features.<institution>`."""
    topic = topic_name(TopicFamily.FEATURES, change.institution)
    value = to_wire(schema_ids[topic], change.message) if change.message else None
    return OutMessage(topic, change.encounter_pseudonym.encode(), value)


def rejected_message(rejected: Rejected) -> OutMessage:
    """Render a rejected event for `rejected.<institution>`: its bytes and headers, and why.

    The error headers are named as Kafka Connect's dead letter queues name them, so that its tools read them.
    """
    raw = rejected.event.raw
    issues = tuple(_cut(issue) for issue in rejected.issues)
    headers = {
        "__connect.errors.topic": raw.topic,
        "__connect.errors.partition": str(raw.partition),
        "__connect.errors.offset": str(raw.offset),
        "__connect.errors.connector.name": "healthalliance",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.exception.message": issues[0].text,
        "healthalliance.reason": issues[0].reason,
        "healthalliance.path": issues[0].path,
        "healthalliance.topic_id": rejected.event.topic_id,
        "healthalliance.operation_outcome": json.dumps(operation_outcome(issues)),
    }
    return OutMessage(
        topic_name(TopicFamily.REJECTED, rejected.event.sender.institution.id),
        raw.key,
        raw.value,
        (*raw.headers, *((name, value.encode("utf-8", "replace")) for name, value in headers.items())),
    )


def _cut(issue: Issue) -> Issue:
    return Issue(issue.reason, issue.path[:_LONGEST], issue.text[:_LONGEST])
