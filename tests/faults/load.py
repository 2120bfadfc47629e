"""What is published while faults strike, and the ledger of what the broker confirmed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b

import orjson

from connectors.feature_topics import Snapshot
from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from connectors.simulator import simulate
from connectors.source_event import SourceEvent
from model_training.job import Options, train
from schemas.errors import UnavailableError
from schemas.institutions import institution, institutions
from schemas.intake.event import RawEvent, parse_events
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import structure_validator
from schemas.messages import EncounterFeatures
from schemas.pseudonyms import institution_keys
from schemas.snapshot import snapshot_table
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Known, Sender, decide

_EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
_UNTIL = _EPOCH + timedelta(days=3650)
_EVENTS_A_PATIENT = 10  # at first; where a load goes on for longer, theirs go on too
_FEWEST_PATIENTS = 300
_TRAINING_SEED, _TRAINING_PATIENTS, _TRAINING = 2, 400, timedelta(days=1000)
_FLUSH_EVERY = 2000

Place = tuple[str, int, int]  # topic, partition, offset
Keyed = tuple[str, SourceEvent]  # institution, event


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An event that the broker confirmed; resource and version are of its Encounter, as far as it can be read."""

    number: int  # in the order of publishing
    institution: str
    resource: str
    version: str
    digest: bytes
    handed_over: float  # epoch seconds
    fault: str | None


@dataclass(slots=True)
class Ledger:
    """What the broker confirmed, by place; `unconfirmed` counts what it did not, whatever became of it."""

    confirmed: dict[Place, Confirmed] = field(default_factory=dict)
    unconfirmed: int = 0


def digest(value: bytes | None) -> bytes:
    """Digest an event's bytes, a tombstone's too."""
    return blake2b(value if value is not None else b"\x00tombstone", digest_size=16).digest()


class Patients:
    """Simulated patients of all institutions, whose events go on from one load to the next."""

    def __init__(self, seed: int, events: int) -> None:
        patients = max(_FEWEST_PATIENTS, events // len(institutions()) // _EVENTS_A_PATIENT)
        self._streams = {id_: _live(id_, seed, patients) for id_ in institutions()}

    def next(self, number: int, are_enough: Callable[[], bool]) -> Iterator[Keyed]:
        """Yield the next `number` events, from each institution in turn, and more until they are enough."""
        for turn in itertools.count():
            if turn >= number // len(self._streams) and are_enough():
                return
            for id_, stream in self._streams.items():
                yield id_, next(stream)


def _live(id_: str, seed: int, patients: int) -> Iterator[SourceEvent]:
    # A tombstone of an encounter lies in another partition than the encounter; which comes first is left open there.
    events = simulate(id_, seed, patients, _EPOCH, _UNTIL, epoch=_EPOCH)
    return (event for event in events if event.value is not None)


def train_champion(settings: Settings, seed: int) -> str:
    """Train a model on a simulated history that is folded here, without Kafka; make it the champion of the version.

    The history is always the same: models differ by how it is split and by their forest's seed.
    """
    settings = settings.model_copy(update={"train_search_budget_s": 0.0})
    made_up = Snapshot(snapshot_table(_training_set()), ())
    return train(settings, seed, read=lambda *_: made_up, options=Options(force=True)).version


@cache
def _training_set() -> tuple[EncounterFeatures, ...]:
    newest: dict[str, EncounterFeatures] = {}
    for id_ in institutions():
        sender = Sender(institution(id_), institution_keys("only for the training set of the faults", id_))
        events = simulate(
            id_, _TRAINING_SEED, _TRAINING_PATIENTS, _EPOCH, _EPOCH + _TRAINING, epoch=_EPOCH, fault_share=0.0
        )
        raws = [RawEvent("", 0, n, one.key, one.value, one.at) for n, one in enumerate(events)]
        parsed = parse_events(raws, sender.institution, Limits(), structure_validator("fhirkit"))
        both = zip(raws, parsed, strict=True)
        decision = decide([Event(raw, one, sender, "") for raw, one in both], Known({}, {}), None)
        newest |= {one.encounter_pseudonym: one.message for one in decision.features if one.message}
    return tuple(newest.values())


class Feed(threading.Thread):
    """Publishes events, at a rate or as fast as it can, and goes on whatever happens to the broker."""

    def __init__(self, settings: Settings, events: Iterable[Keyed], ledger: Ledger, events_per_s: float | None) -> None:
        super().__init__(name="feed", daemon=True)
        self._settings, self._events, self._ledger, self._rate = settings, events, ledger, events_per_s
        self.sent = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Publish all; called by `start`."""
        try:
            self._publish()
        except BaseException as error:
            self.failure = error

    def _publish(self) -> None:
        publisher, started = Publisher(self._settings), time.monotonic()
        for id_, event in self._events:
            while self._rate is not None and (left := started + self.sent / self._rate - time.monotonic()) > 0:
                publisher.poll()
                time.sleep(min(left, 0.02))
            topic = topic_name(TopicFamily.ENCOUNTERS, id_)
            publisher.send(OutMessage(topic, event.key, event.value), self._noting(topic, id_, event))
            publisher.poll()
            self.sent += 1
            if self.sent % _FLUSH_EVERY == 0 and self._rate is None:
                _flush(publisher)
        _flush(publisher)
        self._ledger.unconfirmed = self.sent - len(self._ledger.confirmed)

    def _noting(self, topic: str, id_: str, event: SourceEvent) -> Callable[[int, int], None]:
        resource, version = _named(event.value)
        entry = Confirmed(self.sent, id_, resource, version, digest(event.value), time.time(), event.fault)

        def note(partition: int, offset: int) -> None:
            self._ledger.confirmed[topic, partition, offset] = entry

        return note


def _flush(publisher: Publisher) -> None:
    with suppress(UnavailableError):  # what was not confirmed is not in the ledger
        publisher.flush()


def _named(value: bytes | None) -> tuple[str, str]:
    try:
        document = orjson.loads(value or b"{}")
        resources = [document, *(entry["resource"] for entry in document.get("entry", ()))]
        encounter = next(one for one in resources if one.get("resourceType") == "Encounter")
        return f"Encounter/{encounter.get('id')}", str(encounter.get("meta", {}).get("versionId", ""))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return "", ""
