"""Every kind of bad event among good ones: kept whole with its reason, and the good ones are scored all the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import psutil
import pytest

from connectors.kafka import OutMessage, Publisher, topic_ids
from connectors.settings import Settings
from healthalliance.progress import OUTCOMES, fetch, read_progress, wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.rejection import Reason
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import Received, ends_of, latest_risk, read_since
from tests.integration.running import Trained
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes
from tests.unit.schemas.test_rejections import REFUSED, REFUSED_BYTES

pytestmark = pytest.mark.stack

_INSTITUTION = "dkfz"
_HEADERS = (("hospital-trace", b"\x00\xff trace"), ("hospital-trace", b"twice"), ("empty", b""))
_MAX_BYTES, _MAX_DEPTH = 5_000_000, 64  # the settings' defaults


@dataclass(frozen=True, slots=True)
class Bad:
    """An event that is to be rejected, and why."""

    name: str
    message: OutMessage = field(repr=False)
    reason: Reason


@dataclass(frozen=True, slots=True)
class Mixed:
    """What became of bad events, by where they were published, among good ones."""

    settings: Settings = field(repr=False)
    bad: dict[tuple[int, int], Bad] = field(repr=False)
    good_ids: list[str]
    outcomes: dict[str, int]
    rejected: list[Received] = field(repr=False)
    pids: tuple[list[int], list[int]]


def message(value: Any, key: bytes | None) -> OutMessage:
    value = value if value is None or isinstance(value, bytes) else to_bytes(value)
    return OutMessage(topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), key, value, _HEADERS)


def bad_events() -> Iterator[Bad]:
    tables = {**REFUSED_BYTES, **REFUSED, **of_the_settings_limits(), **of_this_clock(), **more_bytes()}
    for number, (name, (value, reason, _)) in enumerate(tables.items()):
        yield Bad(name, message(value, f"Patient/bad-{number}".encode() if number % 5 else None), reason)
    for key in (None, b"", b"\xff\x00", b"Patient", b"Patient/", b"Observation/1"):
        yield Bad(f"a tombstone with the key {key!r}", message(None, key), Reason.UNKNOWN_TOMBSTONE)
    depends = bundle(patient("bad-dep", gender="f"), encounter("bad-dep-e", patient="bad-dep"))
    yield Bad("an encounter of a rejected patient", message(depends, b"Patient/bad-dep"), Reason.INVALID_CODE)
    yield from contradictions()


Table = dict[str, tuple[Any, Reason, str]]


def of_the_settings_limits() -> Table:
    """Replace what the unit tests refuse under narrower limits."""
    nested = b"[" * _MAX_DEPTH + b"]" * _MAX_DEPTH
    return {
        "one byte more than allowed": (to_bytes(encounter("bad-large")).ljust(_MAX_BYTES + 1), Reason.TOO_LARGE, ""),
        "nested deeper than allowed": (b'{"a": ' + nested + b"}", Reason.TOO_DEEP, ""),
    }


def of_this_clock() -> Table:
    """Replace what the unit tests date by their own time of arrival."""
    future = patient("bad-future", birth_date="2999-01-01")
    return {"a birth in the future": (future, Reason.BIRTH_DATE_IN_FUTURE, "Patient.birthDate")}


def more_bytes() -> Table:
    fine = to_bytes(encounter("bad-bytes"))
    return {
        "a truncated event": (fine[: len(fine) // 2], Reason.NOT_JSON, ""),
        "a repeated key": (fine.replace(b'"status":', b'"status": "planned", "status":'), Reason.DUPLICATE_KEY, ""),
        "UTF-16": (fine.decode().encode("utf-16-le"), Reason.NUL_CHARACTER, ""),
        "gzip": (b"\x1f\x8b\x08\x01\xff\xfe", Reason.NOT_UTF8, ""),
        "two events in one": (fine + fine, Reason.NOT_JSON, ""),
    }


def contradictions() -> Iterator[Bad]:
    """Yield what is only wrong after what came before under the same key."""
    for name, value, reason in (
        ("an encounter", encounter("bad-again", patient="bad-again"), None),
        ("other content", encounter("bad-again", patient="bad-again", class_="AMB"), Reason.VERSION_CONFLICT),
        ("its deletion", deletion("Encounter/bad-again"), None),
        ("a deletion by search", deletion("Encounter?status=planned"), Reason.UNSUPPORTED_DELETE),
        ("a deleted id", encounter("bad-again", patient="bad-again", version=2), Reason.DELETED_BEFORE),
    ):
        one = message(value, b"Patient/bad-again")
        yield Bad(name, one, reason) if reason else Bad(name, one, _ACCEPTED)


_ACCEPTED: Any = None


def deletion(url: str) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"request": {"method": "DELETE", "url": url}}],
    }


@pytest.fixture(scope="module")
def mixed(trained: Trained, worker: WorkerProcesses) -> Mixed:
    settings, pids = trained.settings, worker.pids()
    before = read_progress(settings)[_INSTITUTION].outcomes
    topic = topic_name(TopicFamily.REJECTED, _INSTITUTION)
    starts = ends_of(settings, topic)
    bad, good_ids = publish_mixed(settings)
    after = wait_until_applied(settings, 120)[_INSTITUTION].outcomes
    outcomes = {name: after[name] - before[name] for name in OUTCOMES}
    return Mixed(settings, bad, good_ids, outcomes, read_since(settings, topic, starts), (pids, living(worker.pids())))


def publish_mixed(settings: Settings) -> tuple[dict[tuple[int, int], Bad], list[str]]:
    """Publish each bad event between two good ones; return where each bad one went and the good Encounters' ids."""
    publisher = Publisher(settings)
    placed: dict[tuple[int, int], Bad] = {}
    good_ids: list[str] = []

    def place(bad: Bad, partition: int, offset: int) -> None:
        placed[partition, offset] = bad

    for number, bad in enumerate(bad_events()):
        good = f"good-{number:03d}"
        publisher.send(message(encounter(good, patient=good), f"Patient/{good}".encode()))
        publisher.send(bad.message, partial(place, bad))
        good_ids.append(good)
    publisher.flush()
    return {place: bad for place, bad in placed.items() if bad.reason is not _ACCEPTED}, good_ids


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def place_of(one: Received) -> tuple[int, int]:
    headers = dict(one.headers)
    return int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"])


def test_every_reason_there_is_was_provoked(mixed: Mixed) -> None:
    provoked = {bad.reason for bad in mixed.bad.values()}
    # The first reason is the one that counts; no known input leads to the last resort, "unreadable"; whose patient was
    # erased is in test_erasure.
    assert set(Reason) - provoked == {Reason.DEPENDS_ON_REJECTED, Reason.PATIENT_ERASED, Reason.UNREADABLE}


def test_each_bad_event_is_on_the_rejected_topic_exactly_once(mixed: Mixed) -> None:
    assert Counter(map(place_of, mixed.rejected)) == Counter(mixed.bad.keys())


def test_a_rejected_event_keeps_its_bytes_key_and_headers(mixed: Mixed) -> None:
    for one in mixed.rejected:
        sent = mixed.bad[place_of(one)].message
        assert (one.key, one.value) == (sent.key, sent.value), mixed.bad[place_of(one)].name
        assert one.headers[: len(_HEADERS)] == _HEADERS


def test_a_rejected_event_says_why(mixed: Mixed) -> None:
    said = {place: (mixed.bad[place].name, dict(one.headers)["healthalliance.reason"].decode())
            for one in mixed.rejected for place in [place_of(one)]}  # fmt: skip
    assert said == {place: (bad.name, str(bad.reason)) for place, bad in mixed.bad.items()}


def test_a_rejected_event_carries_an_operation_outcome_with_its_reason(mixed: Mixed) -> None:
    for one in mixed.rejected:
        outcome = json.loads(dict(one.headers)["healthalliance.operation_outcome"])
        codes = [issue["details"]["coding"][0]["code"] for issue in outcome["issue"]]
        assert outcome["resourceType"] == "OperationOutcome"
        assert codes[0] == mixed.bad[place_of(one)].reason


def test_an_event_that_depends_on_a_rejected_one_is_reported_with_it(mixed: Mixed) -> None:
    [one] = [one for one in mixed.rejected if one.key == b"Patient/bad-dep"]
    outcome = json.loads(dict(one.headers)["healthalliance.operation_outcome"])
    codes = [issue["details"]["coding"][0]["code"] for issue in outcome["issue"]]
    assert codes == [Reason.INVALID_CODE, Reason.DEPENDS_ON_REJECTED]


def test_each_bad_event_has_one_row_with_the_same_reason(mixed: Mixed) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    id_ = topic_ids(mixed.settings, [topic])[topic]
    rows = fetch(mixed.settings, "SELECT * FROM rejected_events WHERE topic_id = $1", UUID(id_))
    by_place = {(row["source_partition"], row["source_offset"]): row["reason"] for row in rows}
    assert {place: by_place.get(place) for place in mixed.bad} == {
        place: str(bad.reason) for place, bad in mixed.bad.items()
    }


def test_every_good_event_between_bad_ones_is_scored(mixed: Mixed) -> None:
    assert latest_risk(mixed.settings, _INSTITUTION, mixed.good_ids).keys() == set(mixed.good_ids)


def test_the_counters_agree_with_what_was_published(mixed: Mixed) -> None:
    good_and_accepted = len(mixed.good_ids) + 1
    assert mixed.outcomes == {
        "scored": good_and_accepted, "updated": 0, "unchanged": 0, "retracted": 1, "rejected": len(mixed.bad),
    }  # fmt: skip


def test_no_bad_event_ends_the_worker(mixed: Mixed) -> None:
    before, after = mixed.pids
    assert before == after
