"""Events of every kind that has a consequence, to be sent one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from schemas.topics import TopicFamily, topic_name
from tests.unit.schemas.fhir_events import condition, encounter, patient, to_bytes

LARGE = 3_000  # bytes
DELETED = ("deleted-1", "deleted-2", "deleted-3", "deleted-4")  # whose tombstones lie in whatever partitions


def one_after_the_other(institution: str) -> Iterator[list[OutMessage]]:
    """Yield events that are scored, corrected, taken back, deleted, erased, rejected; send those of a list at once."""

    def event(name: str, value: Any) -> OutMessage:
        return one_event(institution, name, value)

    def tombstone(key: str) -> OutMessage:
        return OutMessage(topic_name(TopicFamily.ENCOUNTERS, institution), key.encode(), None)

    people = ("corrected", "cancelled", *DELETED, "erased", "back")
    yield [event(name, patient(name)) for name in people]
    yield [event(name, encounter(f"{name}-e", patient=name)) for name in people]
    yield [event("corrected", encounter("corrected-e", patient="corrected", version=2, class_="EMER"))]
    yield [event("corrected", condition("corrected-c", patient="corrected"))]
    yield [event("cancelled", encounter("cancelled-e", patient="cancelled", version=2, status="cancelled"))]
    yield [tombstone(f"Encounter/{name}-e") for name in DELETED]
    yield [tombstone("Patient/erased"), tombstone("Patient/back")]
    yield [event("back", encounter("back-new", patient="back"))]
    yield [event(DELETED[0], encounter(f"{DELETED[0]}-e", patient=DELETED[0], version=2))]  # deleted before
    yield [event("large", encounter("large-e", patient="large", text={"status": "generated", "div": _long_text()}))]
    yield [event("broken", b"{")]


def one_event(institution: str, name: str, value: Any) -> OutMessage:
    """Make an event of the patient of that name, of a resource or of bytes."""
    value = value if isinstance(value, bytes) else to_bytes(value)
    return OutMessage(topic_name(TopicFamily.ENCOUNTERS, institution), f"Patient/{name}".encode(), value)


def send(settings: Settings, *messages: OutMessage) -> None:
    """Publish, and wait until it is confirmed."""
    Publisher(settings).publish(messages)


def _long_text() -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{"x" * LARGE}</div>'
