"""Which registered models learned from a patient: snapshots' ends against the offsets of the patient's features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from connectors.kafka import topic_ids
from connectors.models.versions import snapshot_ends, versions
from connectors.partition_ends import identity_digest
from connectors.settings import Settings
from healthalliance.patient_search import Found
from schemas.erasure import TrainedModel, Training
from schemas.topics import TopicFamily, topic_name


@dataclass(frozen=True, slots=True)
class Registered:
    """A version, when it was registered, and up to which offset its snapshot reached by (topic, partition)."""

    name: str
    version: str
    digest: str
    snapshot: str | None
    registered_at: datetime
    ends: Mapping[tuple[str, int], int]


def registered_models(settings: Settings) -> list[Registered]:
    """List the registered versions; raise UnavailableError where the registry or Kafka does not answer."""
    found = [
        (one, {(end.topic, end.partition): end for end in snapshot_ends(settings, one.version)})
        for one in versions(settings)
    ]
    topics = sorted({topic for _, reached in found for topic, _ in reached})
    ids = topic_ids(settings, topics) if topics else {}
    return [
        Registered(
            settings.model_name,
            one.version,
            one.digest,
            identity_digest(reached.values()) if reached else None,
            one.registered_at,
            {(topic, number): end.end_offset for (topic, number), end in reached.items() if ids[topic] == end.topic_id},
        )
        for one, reached in found
    ]


def trained_on(found: Found, registered: Iterable[Registered]) -> tuple[TrainedModel, ...]:
    """Pick the models that learned from a patient's features, or may have."""
    judged = ((one, _trained(found, one)) for one in registered if found.encounters)
    return tuple(
        TrainedModel(one.name, one.version, one.digest, one.snapshot, trained) for one, trained in judged if trained
    )


def _trained(found: Found, model: Registered) -> Training | None:
    if model.snapshot is None:
        return Training.UNKNOWN
    topic = topic_name(TopicFamily.FEATURES, found.person.institution)
    if not any(of == topic for of, _ in model.ends):
        return None
    places = [place for keyed in found.features.values() for place in keyed.places]
    if any(offset < model.ends.get((topic, partition), 0) for partition, offset in places):
        return Training.YES
    was_known = found.first_known is None or found.first_known < model.registered_at
    return Training.POSSIBLY if was_known else None


def models_of(settings: Settings, found: Found) -> tuple[TrainedModel, ...]:
    """List the registered models that learned from a patient's features, or may have."""
    return trained_on(found, registered_models(settings)) if found.encounters else ()
