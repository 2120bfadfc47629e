"""What a certificate says of an erasure, and what it says remains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from healthalliance.patient_search import Found
from schemas.erasure import Certificate, Event, Future, Remainder, Store, TrainedModel
from schemas.topics import TOPIC_SPECS, TopicFamily, topic_name


@dataclass(frozen=True, slots=True)
class Times:
    """When an erasure began and when it was done, UTC."""

    begun: datetime
    finished: datetime


def certificate(
    before: Found,
    after: Found | None,
    event: Event | None,
    *,
    models: Sequence[TrainedModel],
    future: Future | None,
    times: Times,
) -> Certificate:
    """Compare what there was with what is left; without an event nothing was there, and nothing was done."""
    left = after.stores if after else before.stores
    chosen = future or (Future.REFUSE if before.refused else Future.ACCEPT)
    return Certificate(
        institution=before.person.institution,
        patient_pseudonym=before.person.pseudonym,
        begun_at=times.begun,
        finished_at=times.finished,
        event=event,
        future=chosen,
        stores=tuple(
            Store(store, part, number, max(0, number - left[store, part]))
            for (store, part), number in before.stores.items()
        ),
        models=tuple(models),
        remains=tuple(_remains(before, times.finished, chosen, is_erased=event is not None)),
    )


def _remains(found: Found, at: datetime, future: Future, *, is_erased: bool) -> Iterator[Remainder]:
    institution = found.person.institution
    if is_erased:
        yield from _on_topics(institution, at)
        yield from _ELSEWHERE
        yield Remainder(
            "postgresql: audit_events",
            "that records of the pseudonym were looked at or changed, when and by whom",
            None,
            "whoever looked has to answer for it; nothing of what was seen is in it",
        )
        yield Remainder(
            "intake_requests",
            "SHA-256 of an idempotency key and of a request's body",
            _day(at + _IDEMPOTENCY),
            "a request that is sent again must not bring the patient back",
        )
    if found.rejections.newest_at:
        yield Remainder(
            topic_name(TopicFamily.REJECTED, institution),
            "rejected events as the hospital sent them",
            _retained(TopicFamily.REJECTED, found.rejections.newest_at),
            "the hospital's own topic; Kafka removes by age, not by patient",
        )
    if found.rejections.shared:
        yield Remainder(
            "postgresql: rejected_events",
            f"coordinates and reasons of {found.rejections.shared} events that name other patients too",
            None,
            "they are the others' as well, and name nobody",
        )
    if future is Future.REFUSE:
        yield Remainder(
            "postgresql: patient_history",
            "the pseudonym, with nothing but that events are refused",
            None,
            "without it the next event would begin a new history",
        )


def _on_topics(institution: str, at: datetime) -> Iterator[Remainder]:
    yield Remainder(
        topic_name(TopicFamily.ENCOUNTERS, institution),
        "the events as the hospital sent them, the deletion the last of them",
        _retained(TopicFamily.ENCOUNTERS, at),
        "the hospital's own topic; Kafka removes by age, not by patient",
    )
    yield Remainder(
        topic_name(TopicFamily.RISK, institution),
        "scores below a tombstone",
        _retained(TopicFamily.RISK, at),
        "the hospital's own topic; compaction removes them, at the latest retention does",
    )
    yield Remainder(
        topic_name(TopicFamily.FEATURES, institution),
        "features below tombstones, and those, keyed by encounters' pseudonyms",
        _day(at + _COMPACTED),
        "compaction removes them; by that day if the topic goes on receiving records",
    )


def _retained(family: TopicFamily, since: datetime) -> str:
    return _day(since + timedelta(milliseconds=int(TOPIC_SPECS[family].config["retention.ms"])) + _SEGMENT)


def _day(at: datetime) -> str:
    return at.date().isoformat()


# A record goes with the last one of its segment, which Kafka ends after a week; compaction begins a week after a
# tombstone at the latest (`schemas/topics.py`) and takes the tombstone itself a day and a round later.
_SEGMENT = timedelta(days=7)
_COMPACTED = timedelta(days=15)
_IDEMPOTENCY = timedelta(days=2)

_ELSEWHERE = (
    Remainder(
        "postgresql: files, transaction log, backups",
        "deleted rows",
        None,
        "VACUUM frees the first, the others end with their retention; erase again after a restore",
    ),
    Remainder("logs, traces", "pseudonyms and coordinates at most", None, "they end with their own retention"),
    Remainder(
        "exports, reports, DVC remotes, alerts that were sent",
        "what was given away",
        None,
        "whoever received it has it; nothing of it can be reached from here",
    ),
)
