"""Rejected events: look at them, send them in again, or put them aside."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import Any

import asyncpg

from connectors.kafka import OutMessage, Publisher, topic_ids
from connectors.ranges import LogRecord, Partition, Range, log_record, offset_ranges, range_consumer, read_ranges
from connectors.settings import Settings
from connectors.store import connect
from healthalliance.progress import fetch
from schemas.errors import ConfigurationError, UnavailableError
from schemas.institutions import institution as find_institution
from schemas.institutions import institutions
from schemas.intake.event import REDRIVEN_OFFSET, first_offset, parse_events
from schemas.intake.event_bytes import Limits, read_json
from schemas.intake.structure import structure_validator
from schemas.masking import masked
from schemas.rejection import HINTS, Issue, Reason, operation_outcome
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Known, Sender, decide
from streams.processor import load_known, raw_event

_ID = re.compile(r"(?P<institution>[a-z0-9-]+)/(?P<partition>\d{1,9})/(?P<offset>\d{1,18})")
# The resources that events may hold, and the data types that these are made of.
_RESOURCES = (
    "bundle", "condition", "encounter", "medication", "medicationadministration", "medicationrequest",
    "medicationstatement", "patient",
)  # fmt: skip
_DATA_TYPES = (
    "address", "annotation", "attachment", "codeableconcept", "coding", "contactpoint", "dosage", "duration",
    "extension", "humanname", "identifier", "meta", "narrative", "period", "quantity", "range", "ratio", "reference",
    "signature", "timing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EventId:
    """Where an event lies on its institution's encounter topic; written `dkfz/3/1405`."""

    institution: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.institution}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Read an id; raise ConfigurationError where it is none, or of no institution."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ConfigurationError(f"{text} is no event: give <institution>/<partition>/<offset>.")
        return cls(find_institution(found["institution"]).id, int(found["partition"]), int(found["offset"]))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which open rejected events are meant: the named ones, or all of an institution and reason where one is given."""

    institution: str | None = None
    reason: str | None = None
    events: tuple[EventId, ...] = ()

    def subjects(self) -> list[str]:
        """Name what is meant, for the audit log."""
        return [f"event:{one}" for one in self.events] or [f"reason:{self.reason or 'any'}"]


@dataclass(frozen=True, slots=True)
class Judged:
    """An open rejected event under the rules of now; no issues: it would pass. No record: its bytes are gone."""

    id: EventId
    topic_id: str
    record: LogRecord | None
    issues: tuple[Issue, ...]

    @property
    def passes(self) -> bool:
        """Tell whether it would be accepted as a whole."""
        return self.record is not None and not self.issues


def grouped(settings: Settings, institution: str | None, reason: str | None, *, resolved: bool) -> list[dict[str, Any]]:
    """Count rejected events by institution, reason and path, the most first; open ones only unless `resolved`."""
    rows = fetch(settings, _GROUPS, institution, reason, resolved)
    return [{**dict(row), "hint": HINTS[Reason(row["reason"])]} for row in rows]


def shown(settings: Settings, id_: EventId, *, reveal: bool) -> dict[str, Any]:
    """Describe one rejected event; what it says of anybody only with `reveal`.

    Raises ConfigurationError where no such event was rejected, UnavailableError where its bytes are gone.
    """
    topic = topic_name(TopicFamily.ENCOUNTERS, id_.institution)
    topic_id = topic_ids(settings, [topic])[topic]
    rows = fetch(settings, _ONE, topic_id, id_.partition, id_.offset)
    if not rows:
        raise ConfigurationError(f"{id_} was not rejected.")
    record = _read_records(settings, [id_]).get(id_)
    if record is None:
        raise UnavailableError(f"{id_} was rejected, but its content is no longer on {topic}: its retention is over.")
    [parsed] = parse_events([raw_event(record)], find_institution(id_.institution), *_rules(settings))
    issues = (*parsed.issues, *parsed.unsupported)
    return {
        "event": str(id_),
        **{name: value for name, value in rows[0].items() if name != "issues"},
        "issues": [{**one, "hint": HINTS[Reason(one["reason"])]} for one in json.loads(rows[0]["issues"])],
        "now": operation_outcome(issues if reveal else tuple(_without_text(one) for one in issues)),
        "key": _text(record.key) if reveal else _size(record.key),
        "bytes": len(record.value or b""),
        "content": _content(settings, record, reveal=reveal),
    }


def judged(settings: Settings, selection: Selection) -> list[Judged]:
    """Judge open events by the rules and histories of now, in the order they came; nothing is changed."""
    rows = _open(settings, selection)
    ids = [EventId(row["institution"], row["source_partition"], row["source_offset"]) for row in rows]
    current = _current_topic_ids(settings, ids)
    records = _read_records(settings, [id_ for id_, row in zip(ids, rows, strict=True) if _is_of(row, id_, current)])
    events = asyncio.run(_verdicts(settings, records, current))
    return [
        Judged(id_, str(row["topic_id"]), records.get(id_), events.get(id_, ()))
        for id_, row in zip(ids, rows, strict=True)
    ]


def redrive(settings: Settings, events: Iterable[Judged]) -> list[tuple[Judged, int]]:
    """Publish events that pass again, and note it; return each with its new offset once all are confirmed.

    They go to the partition they came from, with their key, value and headers and the offset they had first: so
    what is published twice by a crash in between changes nothing the second time.
    """
    publisher = Publisher(settings)
    sent: list[tuple[Judged, int]] = []
    for one in events:
        if one.record is None:
            continue
        kept = tuple((name, value) for name, value in one.record.headers if name != REDRIVEN_OFFSET)
        headers = (*kept, (REDRIVEN_OFFSET, str(first_offset(raw_event(one.record))).encode()))
        message = OutMessage(one.record.topic, one.record.key, one.record.value, headers, one.record.partition)
        publisher.send(message, lambda _, offset, one=one: sent.append((one, offset)))  # type: ignore[misc]
    publisher.flush()
    _resolve(settings, [one for one, _ in sent], "redriven", [offset for _, offset in sent], None)
    return sent


def discard(settings: Settings, selection: Selection, because: str) -> int:
    """Put open events aside for a reason that is kept; return how many."""
    rows = _open(settings, selection)
    events = [
        Judged(
            EventId(row["institution"], row["source_partition"], row["source_offset"]), str(row["topic_id"]), None, ()
        )
        for row in rows
    ]
    _resolve(settings, events, "discarded", [None] * len(events), because)
    return len(events)


def by_institution(selection: Selection) -> dict[str, Selection]:
    """Cut a selection into those of each institution that it may reach."""
    chosen = [selection.institution] if selection.institution else list(institutions())
    if selection.events:
        chosen = [one for one in chosen if any(event.institution == one for event in selection.events)]
    return {
        one: Selection(one, selection.reason, tuple(event for event in selection.events if event.institution == one))
        for one in chosen
    }


def _open(settings: Settings, selection: Selection) -> list[asyncpg.Record]:
    named = selection.events
    return fetch(
        settings,
        _OPEN,
        selection.institution,
        selection.reason,
        [one.institution for one in named] if named else None,
        [one.partition for one in named],
        [one.offset for one in named],
    )


def _resolve(
    settings: Settings, events: Sequence[Judged], resolution: str, offsets: Sequence[int | None], because: str | None
) -> None:
    fetch(
        settings,
        _RESOLVE,
        [one.topic_id for one in events],
        [one.id.partition for one in events],
        [one.id.offset for one in events],
        list(offsets),
        resolution,
        datetime.now(UTC),
        because,
    )


# --- the rules of now


def _rules(settings: Settings) -> tuple[Limits, Any]:
    limits = settings.event_limits
    return limits, structure_validator(settings.structure_validator)


async def _verdicts(
    settings: Settings, records: dict[EventId, LogRecord], topic_ids_: dict[str, str]
) -> dict[EventId, tuple[Issue, ...]]:
    """Fold the events into what the store holds, without writing, and say what is wrong with each."""
    store = await connect(settings.database_url)
    keys = await store.keys_in_force(settings, {id_.institution for id_ in records})
    verdicts: dict[EventId, tuple[Issue, ...]] = {}
    folded = Known({}, {})
    try:
        for id_, record in records.items():
            sender = Sender(find_institution(id_.institution), *keys[id_.institution])
            [parsed] = parse_events([raw_event(record)], sender.institution, *_rules(settings))
            event = Event(raw_event(record), parsed, sender, topic_ids_[id_.institution])
            async with store.batch() as batch:
                _, known = await load_known(batch, [event])
            known = Known({**known.histories, **folded.histories}, {**known.patient_of, **folded.patient_of})
            decision = decide([event], known, None)
            verdicts[id_] = decision.rejected[0].issues if decision.rejected else ()
            if not verdicts[id_]:
                folded = Known({**folded.histories, **decision.histories}, {**folded.patient_of, **decision.patient_of})
    finally:
        await store.close()
    return verdicts


# --- their content


def _current_topic_ids(settings: Settings, ids: Iterable[EventId]) -> dict[str, str]:
    names = {topic_name(TopicFamily.ENCOUNTERS, one.institution): one.institution for one in ids}
    found = topic_ids(settings, list(names)) if names else {}
    return {names[topic]: id_ for topic, id_ in found.items()}


def _is_of(row: asyncpg.Record, id_: EventId, current: dict[str, str]) -> bool:
    """Tell whether a row is of the topic there is now, not of one that was deleted and made anew."""
    return str(row["topic_id"]) == current[id_.institution]


def _read_records(settings: Settings, ids: Iterable[EventId]) -> dict[EventId, LogRecord]:
    """Read events from their topics; those that retention has removed are left out."""
    found: dict[EventId, LogRecord] = {}
    with range_consumer(settings) as consumer:
        wanted = [(_partition(one), one) for one in ids]
        kept = offset_ranges(consumer, list(dict.fromkeys(partition for partition, _ in wanted)))
        for partition, one in wanted:
            low, end = kept[partition]
            if low <= one.offset < end:
                ranges: dict[Partition, Range] = {partition: (one.offset, one.offset + 1)}
                for message in read_ranges(consumer, ranges, most=1):
                    found[one] = log_record(message)
    return found


def _partition(id_: EventId) -> Partition:
    return topic_name(TopicFamily.ENCOUNTERS, id_.institution), id_.partition


def _content(settings: Settings, record: LogRecord, *, reveal: bool) -> Any:
    if record.value is None:
        return None
    document = read_json(record.value, _rules(settings)[0])
    if isinstance(document, Issue):
        return _text(record.value) if reveal else _size(record.value)
    return document if reveal else masked(document, fhir_elements())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _size(value: bytes | None) -> str | None:
    return None if value is None else f"<{len(value)} bytes>"


def _without_text(issue: Issue) -> Issue:
    return Issue(issue.reason, issue.shared_path, HINTS[issue.reason])


@cache
def fhir_elements() -> frozenset[str]:
    """Name the elements of the FHIR R4 resources that events may hold, and of their data types."""
    modules = [import_module(f"fhir.resources.R4B.{name}") for name in (*_RESOURCES, *_DATA_TYPES)]
    models = [one for module in modules for one in vars(module).values() if hasattr(one, "elements_sequence")]
    names = {name for model in models for name in model.elements_sequence()}
    return frozenset({"resourceType", *names, *(f"_{name}" for name in names)})


_GROUPS = """
SELECT institution, reason, regexp_replace(coalesce(issues->0->>'path', ''), '\\[\\d+\\]', '[*]', 'g') AS path,
       count(*) AS events, min(received_at) AS first_seen, max(received_at) AS last_seen
FROM rejected_events LEFT JOIN rejection_resolutions USING (topic_id, source_partition, source_offset)
WHERE institution = coalesce($1, institution) AND reason = coalesce($2, reason) AND ($3 OR resolution IS NULL)
GROUP BY 1, 2, 3 ORDER BY events DESC, 1, 2, 3
"""
_ONE = """
SELECT received_at, rejected_at, reason, issues, resolution, resolved_at, redriven_offset, because
FROM rejected_events LEFT JOIN rejection_resolutions USING (topic_id, source_partition, source_offset)
WHERE topic_id = $1 AND source_partition = $2 AND source_offset = $3
"""
_OPEN = """
SELECT topic_id, institution, source_partition, source_offset
FROM rejected_events LEFT JOIN rejection_resolutions USING (topic_id, source_partition, source_offset)
WHERE resolution IS NULL AND institution = coalesce($1, institution) AND reason = coalesce($2, reason)
  AND ($3::text[] IS NULL OR (institution, source_partition, source_offset) IN
       (SELECT * FROM unnest($3::text[], $4::int[], $5::bigint[])))
ORDER BY institution, source_partition, source_offset
"""
_RESOLVE = """
INSERT INTO rejection_resolutions
    (topic_id, source_partition, source_offset, redriven_offset, resolution, resolved_at, because)
SELECT *, $5, $6, $7 FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[])
ON CONFLICT DO NOTHING
"""
