"""Patients erased under load: afterwards, once logs are compacted, no store tells of them, and all others are exact."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from connectors.kafka import Admin, OutMessage, Publisher, end_offsets
from connectors.settings import Settings
from healthalliance.erasing import Order, erase, signing_key
from healthalliance.progress import fetch
from schemas.erasure import is_genuine
from schemas.institutions import institutions
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, institution_of, topic_names
from tests.faults.fault_free import read
from tests.faults.load import Keyed
from tests.faults.traces import Erased, hits_in_files, hits_in_tables, hits_on_topic
from tests.faults.trial import Trial

PATIENTS = 1000
_SETTLED_S = 3.0  # an event that was handed over is confirmed by then
_COMPACTED_S = 600.0
# Every record may go at once, however little is dirty, and a segment ends with the next record.
_COMPACT_NOW = {
    "segment.ms": "1000",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000",
    "min.cleanable.dirty.ratio": "0.0",
    "delete.retention.ms": "0",
}

People = dict[str, set[str]]  # ids by institution


def load(events: Iterator[Keyed], trial: Trial) -> Iterator[Keyed]:
    """Note who there is, and send no more of whom is erased."""
    seen: People = trial.notes.setdefault("seen", defaultdict(set))
    gone: People = trial.notes.setdefault("gone", defaultdict(set))
    for id_, event in events:
        patient = (event.key or b"").decode().removeprefix("Patient/")
        if patient not in gone[id_]:
            seen[id_].add(patient)
            yield id_, event


def erase_under_load(trial: Trial) -> None:
    """Erase patients of every institution in turn, some at a time, and keep the certificates."""
    seen: People = trial.notes.setdefault("seen", defaultdict(set))
    gone: People = trial.notes.setdefault("gone", defaultdict(set))
    certificates: list[Any] = trial.notes.setdefault("certificates", [])
    at_a_time = max(1, round(PATIENTS * trial.scale / trial.strikes))
    for number in trial.moments():
        id_ = list(institutions())[number % len(institutions())]
        chosen = trial.rng.sample(sorted(seen[id_] - gone[id_]), at_a_time)
        gone[id_].update(chosen)
        time.sleep(_SETTLED_S)
        started = time.monotonic()
        certificates += erase(trial.settings, Order(id_, chosen, timeout_s=180))
        trial.measure("erasure_s", time.monotonic() - started)


def nothing_is_left(trial: Trial) -> dict[str, int]:
    """Return what should not be: traces of the erased, certificates that do not verify, second runs with work."""
    settings, gone, certificates = trial.settings, trial.notes["gone"], trial.notes["certificates"]
    trial.figures["erased"] = len(certificates)
    key = signing_key(settings).public_key()
    violations = {
        "certificates that are not genuine": sum(not is_genuine(one, key) for one in certificates),
        "certificates that found nothing": sum(one["nothing_found"] for one in certificates),
        "certificates that left something": sum(
            place["found"] != place["removed"] for one in certificates for place in one["stores"]
        ),
        "second runs that did anything": _second_runs(settings, gone),
    }
    erased = _erased(settings, gone)
    trial.figures["words"] = len(erased.words)
    fetch(settings, "VACUUM")
    violations |= {f"in {table}": number for table, number in hits_in_tables(settings, erased).items()}
    folders = [path for path in settings.data_dir.iterdir() if path.is_dir() and path.name not in ("kafka", "postgres")]
    violations |= {f"in {path}": number for path, number in hits_in_files(folders, erased).items()}
    started = time.monotonic()
    violations |= _after_compaction(settings, erased)
    trial.figures["compaction_s"] = time.monotonic() - started
    return {name: number for name, number in violations.items() if number}


def _second_runs(settings: Settings, gone: People) -> int:
    topics = topic_names(TopicFamily.ENCOUNTERS)
    before = end_offsets(settings, topics)
    again = [one for id_, ids in gone.items() if ids for one in erase(settings, Order(id_, sorted(ids)))]
    did = sum(not one["nothing_found"] or any(place["found"] for place in one["stores"]) for one in again)
    return did + (end_offsets(settings, topics) != before)


def _erased(settings: Settings, gone: People) -> Erased:
    """Name the erased and all their encounters, as the hospitals' own events tell of them."""
    secret, words = settings.pseudonym_key.get_secret_value(), set[str]()
    for message in read(settings, end_offsets(settings, topic_names(TopicFamily.ENCOUNTERS))):
        id_, patient = institution_of(str(message.topic())), (message.key() or b"").decode().removeprefix("Patient/")
        if patient in gone[id_]:
            words |= Erased.of(institution_keys(secret, id_), [patient], _encounters(message.value())).words
    return Erased(frozenset(words))


def _encounters(value: bytes | None) -> list[str]:
    try:
        document = json.loads(value or b"{}")
        resources = [document, *(entry["resource"] for entry in document.get("entry", ()))]
        return [one["id"] for one in resources if one["resourceType"] == "Encounter"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []  # faulty on purpose


def _after_compaction(settings: Settings, erased: Erased) -> dict[str, int]:
    """Have the topics compacted, and count what is left of the erased there when nothing is, or time is up."""
    topics = topic_names(TopicFamily.RISK) + topic_names(TopicFamily.FEATURES)
    _configure(settings, topics)
    deadline = time.monotonic() + _COMPACTED_S
    while True:
        _go_on(settings, topics)
        left = {topic: hits_on_topic(settings, topic, erased) for topic in topics}
        found = {f"on {topic}": one.with_value + one.tombstones for topic, one in left.items()}
        if not any(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(5)


def _configure(settings: Settings, topics: list[str]) -> None:
    admin = Admin(settings)
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in _COMPACT_NOW.items()
            ],
        )
        for topic in topics
    ]
    for future in admin.client.incremental_alter_configs(resources).values():
        admin.answer(future, "configure a topic")


def _go_on(settings: Settings, topics: list[str]) -> None:
    """Put a tombstone of nobody on every partition: a segment ends when something follows it."""
    places = [place for place in end_offsets(settings, topics) if place[0] in topics]
    Publisher(settings).publish(
        OutMessage(topic, str(uuid4()).encode(), None, partition=number) for topic, number in places
    )
