"""What the topics hold of patients: where, and whether it is taken back."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import Message

from connectors.ranges import Partition, offset_ranges, partitions_of, range_consumer, read_ranges
from connectors.settings import Settings

Place = tuple[str, int, int]  # topic id, partition, offset of an event

_REFERENCE = re.compile(rb"Patient\\?/([A-Za-z0-9.-]{1,64})")


@dataclass(slots=True)
class Keyed:
    """A key's records on a topic: places of those with a value, how many no tombstone hides, whether there is one."""

    places: list[tuple[int, int]] = field(default_factory=list)
    live: int = 0
    was_gone: bool = False


@dataclass(slots=True)
class Rejections:
    """Rejected events that name a patient: the own ones, and how many name others too; the newest one's time."""

    own: set[Place] = field(default_factory=set)
    shared: int = 0
    newest_at: datetime | None = None


def keyed_records(
    settings: Settings, topic: str, keys: Collection[bytes], since: Mapping[Partition, int] | None = None
) -> tuple[dict[bytes, Keyed], dict[Partition, int]]:
    """Find the records of some keys on a topic, by key, and return where each partition ended.

    since: where to begin. Raises UnavailableError where Kafka does not answer.
    """
    found: dict[bytes, Keyed] = defaultdict(Keyed)
    with range_consumer(settings) as consumer:
        ranges = offset_ranges(consumer, partitions_of(consumer, [topic]))
        ends = {one: end for one, (_, end) in ranges.items()}
        if since is not None:
            ranges = {one: (max(low, since.get(one, low)), end) for one, (low, end) in ranges.items()}
        for message in read_ranges(consumer, ranges if keys else {}):
            key = message.key() or b""
            if key in keys:
                one = found[key]
                if message.value() is None:
                    one.was_gone, one.live = True, 0
                else:
                    one.live += 1
                    one.places.append((message.partition() or 0, message.offset() or 0))
    return dict(found), ends


def rejections_of(settings: Settings, topic: str, patient_ids: Collection[str]) -> dict[str, Rejections]:
    """Find the rejected events that name patients, by their id, on `rejected.<institution>`.

    An event is a patient's own where it names no other than those asked for. Raises UnavailableError where Kafka does
    not answer.
    """
    wanted, found = frozenset(patient_ids), dict[str, Rejections]()
    with range_consumer(settings) as consumer:
        ranges = offset_ranges(consumer, partitions_of(consumer, [topic]))
        for message in read_ranges(consumer, ranges):
            named = patients_named(message.key(), message.value())
            for id_ in named & wanted:
                _note(found.setdefault(id_, Rejections()), message, is_shared=not named <= wanted)
    return found


def _note(one: Rejections, message: Message, *, is_shared: bool) -> None:
    headers: dict[str, Any] = dict(message.headers() or ())
    at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
    one.newest_at = max(at, one.newest_at or at)
    place = tuple(
        (headers.get(name) or b"").decode()
        for name in ("healthalliance.topic_id", "__connect.errors.partition", "__connect.errors.offset")
    )
    if is_shared or not all(place):
        one.shared += 1
    else:
        one.own.add((place[0], int(place[1]), int(place[2])))


def patients_named(key: bytes | None, value: bytes | None) -> set[str]:
    """Name the patients that an event's key, references and Patient resources tell of, whatever its bytes are.

    >>> sorted(patients_named(b"Patient/a", b'{"resourceType": "Patient", "id": "b"}'))
    ['a', 'b']
    """
    try:
        document = orjson.loads(value or b"null")
        plain: bytes | None = orjson.dumps(document)  # without escapes
    except (ValueError, TypeError):  # no JSON, or too deep: what looks like a reference is all there is
        document, plain = None, value
    found = {id_.decode() for data in (key, plain) if data for id_ in _REFERENCE.findall(data)}
    return found | set(_resources(document))


def _resources(document: Any) -> Iterator[str]:
    """Yield the ids of Patient resources, however deep."""
    waiting = [document]
    while waiting:
        match waiting.pop():
            case {"resourceType": "Patient", "id": str(id_), **rest}:
                yield id_
                waiting += rest.values()
            case dict() as members:
                waiting += members.values()
            case list() as members:
                waiting += members
