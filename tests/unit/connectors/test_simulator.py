"""The simulated hospitals: deterministic, seamless, valid but for the faults they announce, worth learning from."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import fhirkit
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.simulator import EPOCH, Fault, simulate
from connectors.source_event import SourceEvent
from schemas.errors import ConfigurationError
from schemas.history import Effect, PatientHistory, fold
from schemas.institutions import institution, institutions
from schemas.intake.event import ParsedEvent, RawEvent, parse_event
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import fhir_resources_issues, fhirkit_issues
from schemas.stays import is_inpatient

YEAR = timedelta(days=365)
BROKEN = {
    "missing-subject": "subject-missing",
    "invalid-date": "invalid-date",
    "end-before-start": "period-reversed",
    "truncated": "not-json",
    "unknown-status": "invalid-code",
}


@cache
def a_year(institution_id: str = "ukhd", patients: int = 150, fault_share: float = 0.01) -> tuple[SourceEvent, ...]:
    return tuple(simulate(institution_id, 5, patients, EPOCH, EPOCH + YEAR, fault_share=fault_share))


@cache
def three_faulty_years() -> tuple[SourceEvent, ...]:
    return tuple(simulate("dkfz", 5, 150, EPOCH, EPOCH + 3 * YEAR, fault_share=0.3))


def parse(event: SourceEvent, offset: int = 0, institution_id: str = "ukhd") -> ParsedEvent:
    raw = RawEvent("encounters", 0, offset, event.key, event.value, event.at)
    return parse_event(raw, institution(institution_id), Limits(), fhirkit_issues)


def histories(
    events: tuple[SourceEvent, ...], institution_id: str
) -> tuple[dict[str, PatientHistory], Counter[Effect]]:
    found: dict[str, PatientHistory] = {}
    effects: Counter[Effect] = Counter()
    for offset, event in enumerate(events):
        for entry in parse(event, offset, institution_id).entries:
            # A tombstone names only the encounter, whose id begins with the patient's.
            patient_id = entry.patient_id or entry.id.rpartition("-e")[0]
            found[patient_id], effect = fold(found.get(patient_id, PatientHistory(patient_id)), entry)
            effects[effect] += 1
    return found, effects


def resources(event: SourceEvent, kind: str) -> list[dict[str, Any]]:
    document = orjson.loads(event.value or b"{}")
    held = [entry["resource"] for entry in document.get("entry", [])] or [document]
    return [one for one in held if one.get("resourceType") == kind]


def test_the_same_seed_gives_the_same_events() -> None:
    assert a_year() == tuple(simulate("ukhd", 5, 150, EPOCH, EPOCH + YEAR))


def test_another_seed_gives_other_events() -> None:
    assert a_year() != tuple(simulate("ukhd", 6, 150, EPOCH, EPOCH + YEAR))


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, 365 * 24 * 60), seed=st.integers(0, 9))
def test_consecutive_windows_join_without_a_seam(cut: int, seed: int) -> None:
    between, until = EPOCH + timedelta(minutes=cut), EPOCH + YEAR
    whole = list(simulate("embl", seed, 12, EPOCH, until, fault_share=0.2))
    first = list(simulate("embl", seed, 12, EPOCH, between, fault_share=0.2))
    second = list(simulate("embl", seed, 12, between, until, fault_share=0.2))
    assert first + second == whole


@settings(max_examples=15, deadline=None)
@given(more=st.integers(1, 30))
def test_more_patients_leave_the_courses_of_the_others_as_they_are(more: int) -> None:
    few = list(simulate("dkfz", 3, 8, EPOCH, EPOCH + YEAR))
    many = list(simulate("dkfz", 3, 8 + more, EPOCH, EPOCH + YEAR))
    ours = {f"sim-dkfz-{number:06d}" for number in range(8)}
    assert [event for event in many if _patient_id(event) in ours] == few


def _patient_id(event: SourceEvent) -> str:
    return event.key.decode().partition("/")[2].partition("-e")[0]


def test_faults_leave_the_true_course_as_it_is() -> None:
    sound = [event.value for event in a_year(fault_share=0.0)]
    assert Counter(sound) - Counter(event.value for event in a_year(fault_share=0.3)) == Counter()


def test_events_come_in_time_order_within_the_window() -> None:
    start, until = EPOCH + timedelta(days=100), EPOCH + timedelta(days=200)
    times = [event.at for event in simulate("dkfz", 5, 100, start, until, fault_share=0.2)]
    assert times == sorted(times)
    assert start <= times[0]
    assert times[-1] < until


def test_the_epoch_moves_the_whole_simulation() -> None:
    epoch = datetime(2030, 1, 1, tzinfo=UTC)
    assert not list(simulate("ukhd", 5, 5, EPOCH, epoch, epoch=epoch))
    assert list(simulate("ukhd", 5, 5, epoch, epoch + YEAR, epoch=epoch))


@pytest.mark.parametrize("institution_id", institutions())
def test_every_event_without_a_fault_is_accepted_as_it_is(institution_id: str) -> None:
    sound = [event for event in a_year(institution_id) if event.fault is None]
    assert sound
    for event in sound:
        assert event.value is not None
        assert not [issue for issue in fhirkit.validate(event.value) if issue.severity == "error"]
        parsed = parse(event, institution_id=institution_id)
        assert parsed.entries
        assert not parsed.issues


def test_a_second_validator_accepts_a_sample_too() -> None:
    for event in a_year()[::25]:
        if event.fault is None and event.value is not None:
            assert fhir_resources_issues([(event.value, orjson.loads(event.value))]) == [[]]


def test_each_kind_of_fault_occurs_and_is_judged_for_what_it_is() -> None:
    found: dict[str, set[str]] = {str(fault): set() for fault in Fault}
    for event in three_faulty_years():
        if event.fault:
            found[event.fault] |= {str(issue.reason) for issue in parse(event).issues[:1]} or {"accepted"}
    assert found == {str(fault): {BROKEN.get(fault, "accepted")} for fault in Fault}


def test_faults_make_the_share_that_was_asked_for() -> None:
    events = three_faulty_years()
    assert sum(event.fault is not None for event in events) / len(events) == pytest.approx(0.3, abs=0.04)


def test_no_faults_are_made_where_none_are_asked_for() -> None:
    assert all(event.fault is None for event in a_year(fault_share=0.0))


def test_a_share_of_faults_that_leaves_too_few_true_events_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="share of faults"):
        next(simulate("ukhd", 1, 1, EPOCH, EPOCH + YEAR, fault_share=0.6))


def test_faults_leave_the_histories_of_a_faultless_course() -> None:
    # Up to the visits that never were, and far from the end, where a repetition may still be on its way.
    clean, _ = histories(a_year(fault_share=0.0), "ukhd")
    faulty, effects = histories(a_year(fault_share=0.3), "ukhd")
    assert effects[Effect.CONFLICT] == 0
    for patient_id, history in clean.items():
        for encounter_id, held in history.encounters.items():
            if held.facts and held.facts.ended and held.facts.ended < EPOCH + YEAR - timedelta(days=2):
                assert faulty[patient_id].encounters[encounter_id] == held


def test_visits_that_never_were_leave_nothing_behind() -> None:
    found, _ = histories(three_faulty_years(), "dkfz")
    never = [held for one in found.values() for id_, held in one.encounters.items() if "-x" in id_]
    assert never
    assert sum(held.facts is not None for held in never) <= 1  # one may still wait for its retraction at the end


def test_an_encounters_versions_rise_by_one_until_it_is_finished() -> None:
    versions: dict[str, list[tuple[int, str]]] = {}
    for event in a_year(fault_share=0.0):
        for one in resources(event, "Encounter"):
            versions.setdefault(one["id"], []).append((int(one["meta"]["versionId"]), one["status"]))
    for seen in versions.values():
        assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
        assert all(status == "in-progress" for _, status in seen[:-1])
    assert any(len(seen) >= 3 for seen in versions.values())


def test_a_patient_is_the_same_in_every_event_until_death() -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    for event in simulate("ukhd", 5, 300, EPOCH, EPOCH + 2 * YEAR, fault_share=0.0):
        for one in resources(event, "Patient"):
            seen.setdefault(one["id"], []).append(one)
    assert any("deceasedDateTime" in versions[-1] for versions in seen.values())
    for versions in seen.values():
        for before, after in pairwise(versions):
            assert after == before or ("deceasedDateTime" in after and after["meta"]["versionId"] == "2")
        assert all("deceasedDateTime" not in one for one in versions[:-1])


def test_the_dead_are_discharged_as_dead_and_never_come_again() -> None:
    found, _ = histories(tuple(simulate("ukhd", 5, 300, EPOCH, EPOCH + 2 * YEAR, fault_share=0.0)), "ukhd")
    dead = [one for one in found.values() if one.patient and one.patient.facts and one.patient.facts.deceased]
    assert dead
    for history in dead:
        last = max((held.facts for held in history.encounters.values() if held.facts), key=lambda one: str(one.started))
        assert history.patient is not None
        assert history.patient.facts is not None
        stays = [held.facts for held in history.encounters.values() if held.facts and held.facts.disposition == "exp"]
        assert [one.ended for one in stays] == [history.patient.facts.deceased_at]
        assert last.started is not None
        assert stays[0].ended is not None
        assert last.started <= stays[0].ended


def test_clinical_resources_come_once_some_of_them_bare() -> None:
    events = a_year(fault_share=0.0)
    ids = Counter(
        one["id"] for event in events for kind in ("Condition", "MedicationRequest") for one in resources(event, kind)
    )
    assert set(ids.values()) == {1}
    assert any(orjson.loads(event.value or b"{}")["resourceType"] != "Bundle" for event in events)


def test_stays_carry_the_contact_level_and_their_departments_are_parts_of_them() -> None:
    found, _ = histories(a_year(), "ukhd")
    encounters = {id_: held.facts for one in found.values() for id_, held in one.encounters.items() if held.facts}
    parts = {id_: facts for id_, facts in encounters.items() if facts.level == "abteilungskontakt"}
    assert parts
    for id_, facts in parts.items():
        assert facts.part_of in encounters
        assert not is_inpatient(id_, facts, institution("ukhd").rules)
    assert {facts.class_code for facts in encounters.values()} == {"IMP", "SS", "EMER", "AMB"}


def test_a_tenth_or_so_of_the_stays_is_followed_by_another_within_30_days() -> None:
    until = EPOCH + 3 * YEAR
    found, _ = histories(tuple(simulate("ukhd", 7, 400, EPOCH, until, fault_share=0.0)), "ukhd")
    stays = [
        sorted(
            (held.facts.started, held.facts.ended)
            for id_, held in one.encounters.items()
            if held.facts
            and held.facts.started
            and held.facts.ended
            and is_inpatient(id_, held.facts, institution("ukhd").rules)
        )
        for one in found.values()
    ]
    gaps = [later[0] - earlier[1] for of_patient in stays for earlier, later in pairwise(of_patient)]
    total = sum(map(len, stays))
    assert 800 <= total <= 1400
    assert 0.08 <= sum(gap <= timedelta(days=30) for gap in gaps) / total <= 0.17


def test_the_three_hospitals_differ_and_an_unknown_one_is_a_general_hospital() -> None:
    diagnoses = {one: _diagnoses(a_year(one)) for one in institutions()}
    assert any(code.startswith("C") for code in diagnoses["dkfz"])
    assert not any(code.startswith("C") for code in diagnoses["ukhd"])
    unknown = list(simulate("new_clinic", 5, 20, EPOCH, EPOCH + YEAR, fault_share=0.0))
    assert all(event.key.startswith(b"Patient/sim-new-clinic-") for event in unknown)
    assert all(not parse(event).issues for event in unknown)


def _diagnoses(events: tuple[SourceEvent, ...]) -> set[str]:
    sound = [event for event in events if event.fault is None]
    return {one["code"]["coding"][0]["code"] for event in sound for one in resources(event, "Condition")}


def test_nobody_can_take_the_patients_for_real_ones() -> None:
    for event in a_year(fault_share=0.0):
        assert event.key.startswith(b"Patient/sim-ukhd-")
        for one in resources(event, "Patient"):
            assert one["name"][0]["family"] == "Simulated"
