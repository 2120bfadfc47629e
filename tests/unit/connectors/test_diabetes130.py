"""Diabetes 130 as events: accepted, counted by the features as the file counts, labelled as the file labels."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.datasets.diabetes130 import Part, parse_part, read_diabetes130, read_stays, stay_events, stays_of
from connectors.datasets.diabetes130.codes import AGE_YEARS, DISPOSITION
from connectors.datasets.diabetes130.rows import FIRST_ADMISSION, LAST_ADMISSION
from connectors.source_event import SourceEvent
from model_training.labels import label
from schemas.errors import ConfigurationError
from schemas.intake.event import parse_event
from schemas.intake.structure import fhir_resources_issues, fhirkit_issues
from schemas.messages import EncounterFeatures
from schemas.snapshot import snapshot_table
from streams.decision import Event, Outcome
from tests.unit.connectors.diabetes130_file import Row, any_rows, row, write
from tests.unit.schemas.fhir_events import LIMITS, dkfz, raw
from tests.unit.streams.batches import TOPIC_ID, Stored, sender

EXCLUDED = {"exp", "other-hcf", "aadvice"}


def events_of(*rows: Row) -> list[SourceEvent]:
    with TemporaryDirectory() as folder:
        return list(read_diabetes130(write(Path(folder) / "rows.csv", rows)))


def taken(events: list[SourceEvent]) -> Stored:
    """Take events as the stream does, one a batch."""
    stored = Stored()
    for offset, one in enumerate(events):
        message = msgspec.structs.replace(raw(None, key=one.key, offset=offset), value=one.value)
        parsed = parse_event(message, dkfz(), LIMITS, fhirkit_issues)
        stored.take([Event(message, parsed, sender(), TOPIC_ID)])
    return stored


def expected_features(one: Row) -> tuple[float, ...]:
    visits = [int(one[f"number_{kind}"]) for kind in ("inpatient", "emergency", "outpatient")]
    return (
        AGE_YEARS[one["age"]],
        {"Female": 0, "Male": 1}.get(one["gender"], 2),
        int(one["number_diagnoses"]),
        int(one["num_medications"]),
        sum(visits),
        visits[0],
        visits[1],
        int(one["time_in_hospital"]),
        one["admission_type_id"] in ("1", "7") or one["admission_source_id"] == "7",
    )


def pseudonym(one: Row) -> str:
    return sender().keys.encounter_pseudonym(one["encounter_id"])


@settings(max_examples=25, deadline=None)
@given(any_rows(3))
def test_any_row_is_accepted_counted_and_labelled_as_the_file_says(rows: list[dict[str, str]]) -> None:
    stored = taken(events_of(*rows))
    features: dict[str, EncounterFeatures] = stored.features()
    assert Outcome.REJECTED not in stored.outcomes()
    assert {pseudonym(one): astuple(features[pseudonym(one)].features) for one in rows} == {
        pseudonym(one): expected_features(one) for one in rows
    }
    table = snapshot_table(features.values())
    labels = label(table)
    names = [str(UUID(bytes=table.column("encounter_pseudonym")[index].as_py())) for index in labels.rows.tolist()]
    eligible = [one for one in rows if DISPOSITION[one["discharge_disposition_id"]] not in EXCLUDED]
    assert dict(zip(names, labels.readmitted.tolist(), strict=True)) == {
        pseudonym(one): one["readmitted"] == "<30" for one in eligible
    }


def test_the_rows_of_one_person_are_patients_linked_to_it() -> None:
    messages = taken(events_of(row(1, patient_nbr=7), row(2, patient_nbr=7))).features()
    first, second = (messages[pseudonym(row(number))] for number in (1, 2))
    assert first.patient_pseudonym != second.patient_pseudonym
    assert first.person_pseudonym == second.person_pseudonym == sender().keys.patient_pseudonym("7")


def test_admissions_follow_the_ids_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    stays = read_stays(write(tmp_path / "rows.csv.gz", [row(30), row(4), row(100)]))
    assert [stay.encounter_id for stay in stays] == ["4", "30", "100"]
    assert (stays[0].admitted, stays[-1].admitted) == (FIRST_ADMISSION, LAST_ADMISSION)
    assert LAST_ADMISSION - stays[1].admitted == stays[1].admitted - FIRST_ADMISSION


def test_the_same_file_gives_the_same_bytes_in_time_order_whose_shares_add_up_to_it(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [row(n, readmitted=["NO", "<30", ">30"][n % 3]) for n in range(9)])
    told: list[int] = []
    events = list(read_diabetes130(path, progress=told.append))
    assert events == list(read_diabetes130(path))
    assert [one.at for one in events] == sorted(one.at for one in events)
    assert (len(events), sum(told)) == (9 + 6 + 1, path.stat().st_size)


def test_what_is_counted_but_not_named_is_plainly_unspecified() -> None:
    event = events_of(row(diag_1="428", number_diagnoses=2, insulin="Up", num_medications=2))[0]
    resources = [entry["resource"] for entry in orjson.loads(event.value or b"")["entry"]]
    codes = [one["code"] for one in resources if one["resourceType"] == "Condition"]
    drugs = [one["medicationCodeableConcept"] for one in resources if one["resourceType"] == "MedicationRequest"]
    assert codes == [
        {"coding": [{"system": "http://hl7.org/fhir/sid/icd-9-cm", "code": "428"}]},
        {"text": "unspecified diagnosis 2"},
    ]
    assert drugs == [{"text": "insulin"}, {"text": "unspecified medication 2"}]


def test_the_second_validator_has_no_objection_either() -> None:
    full = row(number_inpatient=1, number_emergency=1, number_outpatient=1, readmitted="<30", insulin="Up")
    documents = [(one.value or b"", orjson.loads(one.value or b"")) for one in events_of(full)]
    assert fhir_resources_issues(documents) == [[], [], []]


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no number": ({"time_in_hospital": "three"}, "time_in_hospital is no whole number"),
    "a negative one": ({"number_inpatient": -1}, "number_inpatient is no whole number"),
    "too many to be true": ({"number_outpatient": 10**7}, "number_outpatient is no whole number from 0 to 500"),
    "an id that is none": ({"encounter_id": "a/b"}, "encounter_id is no whole number"),
    "an age out of brackets": ({"age": "75"}, "age has a value that is not known"),
    "a disposition nobody knows": ({"discharge_disposition_id": "99"}, "discharge_disposition_id has a value"),
    "an outcome nobody knows": ({"readmitted": "maybe"}, "readmitted has a value"),
    "more named than counted": ({"number_diagnoses": 0}, "more diagnoses or drugs than it counts"),
    "an id twice": ({"encounter_id": "1"}, "encounter_id occurs in an earlier row"),
}


@pytest.mark.parametrize(("columns", "text"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_row_is_named_by_file_and_line(columns: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [row(1), row(2), {**row(3), **{k: str(v) for k, v in columns.items()}}])
    with pytest.raises(ConfigurationError) as raised:
        read_stays(path)
    assert str(raised.value).startswith(f"{path}, line 4: ")
    assert text in str(raised.value)


def test_a_row_with_a_field_too_few_is_named_too(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [row(1)])
    path.write_text(path.read_text() + "2,3\n")
    with pytest.raises(ConfigurationError, match="line 3: "):
        read_stays(path)


def test_a_file_of_another_format_or_cut_short_is_refused(tmp_path: Path) -> None:
    lacking = write(tmp_path / "lacking.csv", [row(1)], lacking="number_emergency")
    with pytest.raises(ConfigurationError, match=r"line 1: lacks number_emergency\."):
        read_stays(lacking)
    cut = write(tmp_path / "cut.csv.gz", [row(1)])
    cut.write_bytes(cut.read_bytes()[:-9])
    for path in (cut, tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ConfigurationError, match=path.name):
            read_stays(path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("?ABC"), st.sampled_from("?XY")), max_size=60))
def test_parts_hold_every_stay_once_and_share_no_person(people: list[tuple[int, str, str]]) -> None:
    rows = [
        row(number, patient_nbr=person, payer_code=payer, medical_specialty=specialty)
        for number, (person, payer, specialty) in enumerate(people)
    ]
    with TemporaryDirectory() as folder:
        stays = read_stays(write(Path(folder) / "rows.csv", rows))
    parts = [stays_of(Part(number, 3), stays) for number in (1, 2, 3)]
    assert sorted((stay for part in parts for stay in part), key=lambda stay: stay.admitted) == stays
    assert sum(len({stay.patient_nbr for stay in part}) for part in parts) == len({one.patient_nbr for one in stays})


def test_a_payer_and_specialty_goes_to_one_part_and_the_parts_are_about_equal(tmp_path: Path) -> None:
    groups = [(payer, specialty) for payer in "ABCDEF" for specialty in "XYZ"]
    rows = [
        row(number, patient_nbr=number, payer_code=groups[number % 18][0], medical_specialty=groups[number % 18][1])
        for number in range(180)
    ]
    stays = read_stays(write(tmp_path / "rows.csv", rows))
    parts = [{(one.payer_code, one.medical_specialty) for one in stays_of(Part(n, 3), stays)} for n in (1, 2, 3)]
    assert [len(part) for part in parts] == [6, 6, 6]
    assert set().union(*parts) == set(groups)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3x", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no part"):
        parse_part(text)


def test_no_stays_are_no_events() -> None:
    assert list(stay_events([])) == []
