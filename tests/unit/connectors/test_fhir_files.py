"""FHIR files as events: nothing lost, nothing mended, one key a patient."""

from __future__ import annotations

import gzip
import tarfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.fhir_files import read_events, total_bytes
from connectors.fhir_files.ordering import TimeSorter
from connectors.fhir_files.splitting import split_bundle
from connectors.source_event import SourceEvent
from schemas.errors import ConfigurationError

SYNTHEA = Path(__file__).parents[4] / "shared" / "data" / "synthea-dev.tar.xz"
JANUARY = datetime(2024, 1, 1, tzinfo=UTC)


def a_patient(id_: str = "p1") -> dict[str, Any]:
    return {"resourceType": "Patient", "id": id_, "gender": "female"}


def an_encounter(id_: str, start: str, subject: str = "Patient/p1", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": "finished",
        "class": {"code": "AMB"},
        "subject": {"reference": subject},
        "period": {"start": start, "end": start},
        **more,
    }


def a_condition(id_: str, recorded: str, encounter: str | None = None, subject: str = "Patient/p1") -> dict[str, Any]:
    condition = {
        "resourceType": "Condition",
        "id": id_,
        "subject": {"reference": subject},
        "recordedDate": recorded,
    }
    return condition | ({"encounter": {"reference": encounter}} if encounter else {})


def a_bundle(*resources: dict[str, Any], type_: str = "transaction") -> dict[str, Any]:
    entries = [{"fullUrl": f"urn:uuid:{one.get('id')}", "resource": one} for one in resources]
    return {"resourceType": "Bundle", "type": type_, "entry": entries}


def split(bundle: dict[str, Any]) -> list[SourceEvent]:
    return split_bundle(orjson.dumps(bundle), bundle, Counter())


def ids(event: SourceEvent) -> list[str]:
    assert event.value is not None
    return [entry["resource"]["id"] for entry in orjson.loads(event.value)["entry"]]


def written(path: Path, *documents: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else orjson.dumps(one) for one in documents))
    return path


def test_a_bundle_becomes_one_collection_an_encounter_in_time_order() -> None:
    events = split(
        a_bundle(a_patient(), an_encounter("later", "2024-02-01T08:00:00Z"), an_encounter("first", "2024-01-01"))
    )
    assert [ids(event) for event in events] == [["p1", "first"], ["p1", "later"]]
    assert [event.at for event in events] == [JANUARY, datetime(2024, 2, 1, 8, tzinfo=UTC)]
    assert {event.key for event in events} == {b"Patient/p1"}
    assert {orjson.loads(event.value or b"")["type"] for event in events} == {"collection"}


def test_a_clinical_resource_goes_with_the_encounter_it_names() -> None:
    encounters = [an_encounter("e1", "2024-01-01"), an_encounter("e2", "2024-02-01")]
    events = split(a_bundle(a_patient(), *encounters, a_condition("c", "2024-01-01", "urn:uuid:e2")))
    assert [ids(event) for event in events] == [["p1", "e1"], ["p1", "e2", "c"]]


@pytest.mark.parametrize(
    ("recorded", "encounter"),
    [("2023-06-01", "e1"), ("2024-01-15", "e1"), ("2024-01-25", "e2"), ("2024-02-01", "e2"), ("2025-01-01", "e3")],
)
def test_one_that_names_none_goes_with_the_first_that_covers_it_or_follows(recorded: str, encounter: str) -> None:
    events = split(
        a_bundle(
            a_patient(),
            an_encounter("e1", "2024-01-01", period={"start": "2024-01-01", "end": "2024-01-20"}),
            an_encounter("e2", "2024-02-01"),
            an_encounter("e3", "2024-03-01"),
            a_condition("c", recorded),
        )
    )
    assert [ids(event) for event in events if "c" in ids(event)] == [["p1", encounter, "c"]]


def test_a_bundle_without_an_encounter_becomes_one_event() -> None:
    events = split(a_bundle(a_patient(), a_condition("c1", "2024-01-01"), a_condition("c2", "2023-01-01")))
    assert [ids(event) for event in events] == [["p1", "c1", "c2"]]
    assert events[0].at == JANUARY


def test_a_medication_stays_with_each_prescription_that_refers_to_it() -> None:
    prescription = {
        "resourceType": "MedicationRequest",
        "subject": {"reference": "urn:uuid:p1"},
        "medicationReference": {"reference": "urn:uuid:m"},
    }
    bundle = a_bundle(
        a_patient(),
        an_encounter("e1", "2024-01-01"),
        an_encounter("e2", "2024-02-01"),
        prescription | {"id": "r1", "encounter": {"reference": "Encounter/e1"}},
        prescription | {"id": "r2", "encounter": {"reference": "https://example.org/fhir/Encounter/e2"}},
        {"resourceType": "Medication", "id": "m"},
    )
    assert [ids(event) for event in split(bundle)] == [["p1", "e1", "r1", "m"], ["p1", "e2", "r2", "m"]]


def test_the_patients_of_a_bundle_are_told_apart() -> None:
    events = split(
        a_bundle(
            a_patient("p1"),
            a_patient("p2"),
            an_encounter("e1", "2024-01-02", "urn:uuid:p1"),
            an_encounter("e2", "2024-01-01", "https://example.org/fhir/Patient/p2"),
            a_condition("c", "2024-01-01", None, "Patient/p2"),
        )
    )
    found = {event.key: ids(event) for event in events}
    assert found == {b"Patient/p1": ["p1", "e1"], b"Patient/p2": ["p2", "e2", "c"]}


def test_a_patient_without_an_id_goes_by_its_full_url_everywhere() -> None:
    patient = {"fullUrl": "urn:uuid:77aa", "resource": {"resourceType": "Patient"}}
    encounters = [an_encounter("e1", "2024-01-01", "urn:uuid:77aa"), an_encounter("e2", "2024-02-01", "urn:uuid:77aa")]
    bundle = a_bundle(*encounters)
    bundle["entry"].insert(0, patient)
    events = split(bundle)
    assert [event.key for event in events] == [b"Patient/77aa"] * 2
    assert all(patient in orjson.loads(event.value or b"")["entry"] for event in events)


def test_a_conditional_reference_stays_as_it_is_written() -> None:
    (event,) = split(a_bundle(an_encounter("e1", "2024-01-01", "Patient?identifier=7")))
    assert event.key == b"Patient?identifier=7"


def test_a_broken_encounter_is_published_as_it_is() -> None:
    broken = an_encounter("e1", "2024-02-30") | {"status": "gibberish", "class": None}
    (event,) = split(a_bundle(a_patient(), broken))
    assert orjson.loads(event.value or b"")["entry"][1]["resource"] == broken


def test_a_message_passes_through_with_its_bytes() -> None:
    bundle = a_bundle(a_patient(), an_encounter("e1", "2024-01-01"), an_encounter("e2", "2024-01-01"), type_="message")
    value = orjson.dumps(bundle | {"timestamp": "2024-01-01T00:00:00Z"}, option=orjson.OPT_INDENT_2)
    assert split_bundle(value, orjson.loads(value), Counter()) == [SourceEvent(b"Patient/p1", value, JANUARY)]


def test_deletions_and_several_versions_of_a_resource_stay_together() -> None:
    deletion = a_bundle(a_patient(), an_encounter("e1", "2024-01-01"))
    deletion["entry"].append({"request": {"method": "DELETE", "url": "Encounter/e0"}})
    versions = [an_encounter("e1", "2024-01-01", meta={"versionId": str(number)}) for number in (1, 2)]
    for bundle in (deletion, a_bundle(*versions, type_="history")):
        (event,) = split(bundle)
        assert (event.key, event.value) == (b"Patient/p1", orjson.dumps(bundle))


def test_a_deleted_patient_is_the_key() -> None:
    entry = {"request": {"method": "DELETE", "url": "Patient/p9"}}
    (event,) = split({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    assert event.key == b"Patient/p9"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400), st.none() | st.integers(0, 15)), max_size=12),
)
def test_splitting_loses_and_doubles_nothing(
    visits: list[tuple[int, int]], findings: list[tuple[int, int, int | None]]
) -> None:
    def day(number: int) -> str:
        return (JANUARY + timedelta(days=number)).date().isoformat()

    encounters = [an_encounter(f"e{n}", day(on), f"Patient/p{who}") for n, (who, on) in enumerate(visits)]
    conditions = [
        a_condition(f"c{n}", day(on), None if named is None else f"Encounter/e{named}", f"Patient/p{who}")
        for n, (who, on, named) in enumerate(findings)
    ]
    events = split(a_bundle(*(a_patient(f"p{n}") for n in range(3)), *encounters, *conditions))
    sent = Counter(id_ for event in events for id_ in ids(event) if not id_.startswith("p"))
    assert sent == Counter([f"e{n}" for n in range(len(visits))] + [f"c{n}" for n in range(len(findings))])
    assert all(sum(id_.startswith("e") for id_ in ids(event)) <= 1 for event in events)
    for key in {event.key for event in events}:
        times = [event.at for event in events if event.key == key]
        assert times == sorted(times)


NAMES = [
    *("entry", "resource", "resourceType", "fullUrl", "request", "method", "url", "subject", "reference"),
    *("encounter", "id", "type", "period", "start", "meta", "medicationReference", "partOf"),
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["Patient", "Patient/1", "urn:uuid:1", "2024"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(
    ANY_JSON, st.sampled_from(["Bundle", "Encounter", "Condition", "Patient", None]), st.sampled_from([None, "batch"])
)
def test_content_never_raises(tmp_path_factory: pytest.TempPathFactory, content: Any, kind: Any, type_: Any) -> None:
    if isinstance(content, dict):
        content |= {"resourceType": kind, "type": type_}
    path = written(tmp_path_factory.mktemp("any") / "one.json", content)
    assert all(isinstance(event.key, bytes) for event in read_events([path]))


@pytest.mark.parametrize("value", [b'{"resourceType": "Encounter", ', b"", b"\xff\xfe", b"[1]", b'{"id": "no type"}'])
def test_what_cannot_be_read_is_sent_as_it_stands_without_a_key(tmp_path: Path, value: bytes) -> None:
    (event,) = read_events([written(tmp_path / "broken.json", value)])
    assert (event.key, event.value) == (b"", value)


def test_a_bad_line_does_not_hide_the_others(tmp_path: Path) -> None:
    lines = [an_encounter("e1", "2024-01-01"), b"{oops", an_encounter("e2", "2024-01-02")]
    events = list(read_events([written(tmp_path / "Encounter.ndjson", *lines)]))
    assert Counter(event.key for event in events) == {b"": 1, b"Patient/p1": 2}


def test_a_bulk_export_gives_patients_first_and_then_all_by_time(tmp_path: Path) -> None:
    written(tmp_path / "Condition.ndjson", a_condition("c", "2024-01-02"))
    written(tmp_path / "Encounter.ndjson", an_encounter("e2", "2024-01-03"), an_encounter("e1", "2024-01-01"))
    written(tmp_path / "deeper" / "Patient.ndjson", a_patient())
    events = list(read_events([tmp_path]))
    assert [orjson.loads(event.value or b"")["id"] for event in events] == ["p1", "e1", "c", "e2"]
    assert {event.key for event in events} == {b"Patient/p1"}


def test_resources_of_other_types_are_skipped_and_counted(tmp_path: Path) -> None:
    written(tmp_path / "a.ndjson", {"resourceType": "Procedure"}, {"resourceType": "Observation"}, a_patient())
    written(tmp_path / "b.json", a_bundle(a_patient(), {"resourceType": "Procedure", "id": "x"}))
    skipped = Counter[str]()
    assert len(list(read_events([tmp_path], skipped=skipped))) == 2
    assert skipped == {"Procedure": 2, "Observation": 1}


def test_every_container_gives_the_same_events(tmp_path: Path) -> None:
    bundle = a_bundle(a_patient(), an_encounter("e1", "2024-01-01"), an_encounter("e2", "2024-01-02"))
    plain = written(tmp_path / "one.json", bundle)
    lines = written(tmp_path / "two.jsonl", bundle)
    zipped = tmp_path / "three.json.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    archive = tmp_path / "four.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(plain, "deep/one.json")
    expected = list(read_events([plain]))
    assert len(expected) == 2
    assert [list(read_events([path])) for path in (lines, zipped, archive)] == [expected] * 3


def test_a_folder_is_read_in_order_and_its_other_files_are_ignored(tmp_path: Path) -> None:
    for name in ("b.json", "a.json"):
        written(tmp_path / name, a_bundle(a_patient(name[0])))
    written(tmp_path / "readme.txt", b"no FHIR")
    written(tmp_path / ".hidden.json", b"no FHIR")
    assert [event.key for event in read_events([tmp_path])] == [b"Patient/a", b"Patient/b"]


def test_progress_adds_up_to_all_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a.ndjson", *(an_encounter(f"e{n}", "2024-01-01") for n in range(50)), b"{")
    written(tmp_path / "b.json", a_bundle(a_patient()))
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress(orjson.dumps(a_patient())))
    consumed = list[int]()
    list(read_events([tmp_path], progress=consumed.append))
    assert sum(consumed) == total_bytes([tmp_path])
    assert min(consumed) >= 0


def test_a_missing_file_an_empty_folder_and_a_strange_ending_are_named(tmp_path: Path) -> None:
    strange = written(tmp_path / "notes.txt", b"")
    for path in (tmp_path / "none.json", tmp_path, strange):
        with pytest.raises(ConfigurationError, match=path.name):
            list(read_events([path]))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    for name in ("broken.json.gz", "broken.tar.xz"):
        with pytest.raises(ConfigurationError, match=name):
            list(read_events([written(tmp_path / name, b"not compressed at all")]))


@given(st.lists(st.tuples(st.booleans(), st.integers(-100, 100)), max_size=30), st.integers(0, 40))
def test_sorting_is_the_same_in_memory_and_on_disk(arrivals: list[tuple[bool, int]], run_bytes: int) -> None:
    def event(number: int, days: int) -> SourceEvent:
        return SourceEvent(b"k", b"%d" % number, JANUARY + timedelta(days=days, microseconds=7))

    with TimeSorter(run_bytes) as sorter:
        for number, (is_patient, days) in enumerate(arrivals):
            sorter.add(event(number, days), number, is_patient=is_patient)
        given_back = list(sorter)
    numbers = sorted(range(len(arrivals)), key=lambda number: (not arrivals[number][0], arrivals[number][1], number))
    assert given_back == [(event(number, arrivals[number][1]), number) for number in numbers]


@pytest.mark.skipif(not SYNTHEA.exists(), reason="the shared data folder is not beside the project")
def test_the_synthea_patients_give_an_event_for_each_of_their_encounters() -> None:
    encounters, patients, seen = 0, set[bytes](), Counter[str]()
    for event in read_events([SYNTHEA]):
        kinds = Counter(entry["resource"]["resourceType"] for entry in orjson.loads(event.value or b"")["entry"])
        assert kinds["Encounter"] == kinds["Patient"] == 1
        encounters += 1
        patients.add(event.key)
        seen += kinds
    assert (encounters, len(patients)) == (10_279, 124)
    assert (seen["Condition"], seen["MedicationRequest"]) == (5_086, 9_616)
