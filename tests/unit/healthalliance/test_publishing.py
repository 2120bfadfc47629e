"""Events as NDJSON: a line each, that reads back as the same event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from connectors.fhir_files import read_events
from connectors.source_event import SourceEvent
from healthalliance.publishing import Ledger, write_ndjson
from schemas.topics import TopicFamily, topic_name
from tests.unit.schemas.fhir_events import encounter, parse, to_bytes

AT = datetime(2024, 3, 5, tzinfo=UTC)
TOPIC, OTHER = (topic_name(TopicFamily.ENCOUNTERS, id_) for id_ in ("dkfz", "ukhd"))


def lines(path: Path, *events: SourceEvent) -> list[bytes]:
    assert write_ndjson(path, events) == len(events)
    return path.read_bytes().splitlines()


def test_each_event_is_one_line_even_where_it_is_broken(tmp_path: Path) -> None:
    values = [b'{"a":\n 1}', b"{broken\n\n", b"\xff\xfe", to_bytes(encounter())]
    events = [SourceEvent(b"Patient/p1", value, AT) for value in values]
    assert lines(tmp_path / "x.ndjson", *events) == [value.replace(b"\n", b" ") for value in values]


def test_a_tombstone_becomes_a_bundle_that_deletes_the_same(tmp_path: Path) -> None:
    tombstones = [SourceEvent(key, None, AT) for key in (b"Encounter/e1", b"Patient/p1")]
    encounter_gone, patient_gone = (parse(line) for line in lines(tmp_path / "x.ndjson", *tombstones))
    [entry] = encounter_gone.entries
    assert (entry.id, entry.facts, encounter_gone.issues) == ("e1", None, ())
    assert (patient_gone.erase, patient_gone.issues) == (("p1",), ())


def test_no_events_make_an_empty_file(tmp_path: Path) -> None:
    assert lines(tmp_path / "x.ndjson") == []


def test_what_was_written_is_read_as_the_same_events(tmp_path: Path) -> None:
    value = to_bytes(encounter())
    lines(tmp_path / "x.ndjson", SourceEvent(b"Patient/p1", value, AT))
    [event] = read_events([tmp_path / "x.ndjson"])
    assert (event.key, json.loads(event.value or b"")) == (b"Patient/p1", json.loads(value))


def test_a_ledger_counts_a_topics_confirmed_events() -> None:
    ledger = Ledger({(TOPIC, 0, 0): 1.0, (TOPIC, 1, 0): 2.0, (OTHER, 0, 0): 3.0})
    assert (ledger.count(TOPIC), ledger.count(OTHER)) == (2, 1)
