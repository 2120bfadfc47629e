"""What the published events come to without any fault: the same pure core, one event after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, groupby, islice

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from connectors.kafka import end_offsets, topic_ids
from connectors.kafka_access import client_properties
from connectors.patient_records import patients_named
from connectors.settings import Settings
from schemas.history import PatientHistory
from schemas.institutions import institution
from schemas.intake.event import RawEvent, parse_events
from schemas.intake.structure import structure_validator
from schemas.messages import EncounterFeatures, RiskScore
from schemas.model import Model
from schemas.pseudonyms import institution_keys
from schemas.readmission import StayOutcome
from schemas.rejection import Reason
from schemas.topics import TopicFamily, institution_of, topic_names
from streams.decision import EncounterKey, Event, Known, PatientKey, Sender, decide
from streams.scoring import score
from tests.faults.load import Place, digest
from tests.unit.streams.batches import keep_outcomes

_BATCH = 500
_SILENCE_S = 120.0


@dataclass
class FaultFree:
    """The rows and histories that must be there, by record id and patient."""

    scores: dict[str, RiskScore] = field(default_factory=dict)
    superseded: dict[str, str] = field(default_factory=dict)
    rejected: dict[Place, tuple[Reason, ...]] = field(default_factory=dict)
    histories: dict[PatientKey, PatientHistory] = field(default_factory=dict)
    patient_of: dict[EncounterKey, str | None] = field(default_factory=dict)
    features: dict[EncounterKey, EncounterFeatures | None] = field(default_factory=dict)
    digests: dict[Place, bytes] = field(default_factory=dict)
    outcomes: dict[EncounterKey, StayOutcome] = field(default_factory=dict)
    rejected_of: dict[tuple[str, str], set[Place]] = field(default_factory=dict)  # by topic and only patient they name
    erased: set[str] = field(default_factory=set)  # records of scores that were, until their patient was erased
    erased_rejections: set[Place] = field(default_factory=set)  # their events stay on `rejected.<institution>`


def fault_free(settings: Settings, model_of: Callable[[Place], Model]) -> FaultFree:
    """Read all encounter topics and work them off in offset order, partition by partition.

    model_of: the model that scored an event; which one it was when models were swapped nobody can foresee.
    """
    result, validate = FaultFree(), structure_validator(settings.structure_validator)
    limits = settings.event_limits
    topics = topic_names(TopicFamily.ENCOUNTERS)
    ids, senders = topic_ids(settings, topics), _senders(settings, topics)
    ends = end_offsets(settings, topics)
    for topic, partition in sorted(ends):
        messages = read(settings, {(topic, partition): ends[topic, partition]})
        while batch := list(islice(messages, _BATCH)):
            raws = [_raw(one) for one in batch]
            sender = senders[topic]
            parsed = parse_events(raws, sender.institution, limits, validate)
            events = [Event(raw, one, sender, ids[topic]) for raw, one in zip(raws, parsed, strict=True)]
            # What a batch takes back itself would never be known; a worker may have published it before.
            erasures = accumulate(bool(one.parsed.erase) for one in events)
            keys = zip((model_of(_place(one.raw)).version for one in events), erasures, strict=True)
            for _, some in groupby(events, lambda _, keys=keys: next(keys)):  # type: ignore[misc]
                scored = list(some)
                _apply(result, scored, model_of(_place(scored[0].raw)))
            result.digests |= {_place(raw): digest(raw.value) for raw in raws}
    return result


def _apply(result: FaultFree, events: list[Event], model: Model) -> None:
    decision = decide(events, Known(result.histories, result.patient_of), model.version)
    result.histories |= decision.histories
    result.patient_of |= decision.patient_of
    result.rejected |= {_place(one.event.raw): tuple(issue.reason for issue in one.issues) for one in decision.rejected}
    for refused in decision.rejected:
        raw = refused.event.raw
        if len(named := patients_named(raw.key, raw.value)) == 1:
            result.rejected_of.setdefault((raw.topic, named.pop()), set()).add(_place(raw))
    result.features |= {(one.institution, one.encounter_pseudonym): one.message for one in decision.features}
    keep_outcomes(result.outcomes, decision.stay_outcomes)
    for event, key, patient_id in decision.erased:
        _forget(result, event, key, patient_id)
    result.superseded |= {one.supersedes.record_id: one.record_id for one in decision.to_score if one.supersedes}
    for one in score(decision.to_score, model, datetime.now(UTC)):
        result.scores[one.record_id] = one


def _forget(result: FaultFree, event: Event, patient: PatientKey, patient_id: str) -> None:
    """Take out what is gone with a patient: scores from before this batch, and rejections from before the event."""
    gone = {id_ for id_, one in result.scores.items() if (one.institution, one.patient_pseudonym) == patient}
    result.erased |= gone
    result.scores = {id_: one for id_, one in result.scores.items() if id_ not in gone}
    for place in result.rejected.keys() & result.rejected_of.get((event.raw.topic, patient_id), set()):
        if place[1:] < (event.raw.partition, event.raw.offset):
            del result.rejected[place]
            result.erased_rejections.add(place)


def _senders(settings: Settings, topics: Iterable[str]) -> dict[str, Sender]:
    secret = settings.pseudonym_key.get_secret_value()
    return {
        topic: Sender(institution(id_), institution_keys(secret, id_))
        for topic in topics
        for id_ in [institution_of(topic)]
    }


def _place(raw: RawEvent) -> Place:
    return raw.topic, raw.partition, raw.offset


def _raw(message: Message) -> RawEvent:
    _, timestamp = message.timestamp()
    return RawEvent(
        str(message.topic()),
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        datetime.fromtimestamp(timestamp / 1000, UTC),
        tuple(message.headers() or ()),  # type: ignore[arg-type]  # bytes, as they came
    )


def read(settings: Settings, ends: Mapping[tuple[str, int], int]) -> Iterator[Message]:
    """Yield the partitions' records from the beginning to the given ends."""
    consumer = Consumer(
        {
            **client_properties(settings),
            "group.id": "faults-oracle",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
            # It opens one partition after the other: asking where that begins, and waiting at its end, takes a second.
            "fetch.wait.max.ms": 10,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        left = {partition for partition, end in ends.items() if end > 0}
        consumer.assign([TopicPartition(topic, number, 0) for topic, number in left])
        heard_at = time.monotonic()
        while left:
            messages = consumer.consume(1000, timeout=0.1)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_S:
                raise TimeoutError(f"Kafka sent nothing of {left} for {_SILENCE_S:.0f} s")
            yield from _records(messages, left)
    finally:
        consumer.close()


def _records(messages: Iterable[Message], left: set[tuple[str, int]]) -> Iterator[Message]:
    for message in messages:
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            left.discard((str(message.topic()), message.partition() or 0))
