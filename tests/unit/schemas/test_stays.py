"""What is an inpatient stay: by class, by contact level, by length, and never what is planned or a part."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from schemas.history import EncounterFacts
from schemas.institutions import institution
from schemas.stays import is_inpatient, is_part, took_place

RULES = institution("dkfz").rules
START = datetime(2024, 3, 1, 10, tzinfo=UTC)
VISIT = EncounterFacts(
    status="finished",
    class_code="AMB",
    level=None,
    part_of=None,
    started=START,
    ended=START + timedelta(hours=2),
    updated=None,
    disposition=None,
    emergency=False,
)


def visit(**changes: object) -> EncounterFacts:
    return msgspec.structs.replace(VISIT, **changes)


@pytest.mark.parametrize("id_", ["dkfz", "ukhd", "embl"])
@pytest.mark.parametrize(
    ("code", "stay"),
    [("IMP", True), ("ACUTE", True), ("NONAC", True), ("OBSENC", True), ("SS", True),
     ("AMB", False), ("EMER", False), ("VR", False), ("HH", False), ("imp", False), (None, False)],
)  # fmt: skip
def test_the_class_tells_a_stay_at_each_institution(id_: str, code: str | None, stay: bool) -> None:
    assert is_inpatient("e1", visit(class_code=code), institution(id_).rules) is stay


def test_an_institutions_own_classes_replace_the_common_ones() -> None:
    own = replace(RULES, inpatient_classes=frozenset({"STATIONAER"}))
    assert is_inpatient("e1", visit(class_code="STATIONAER"), own)
    assert not is_inpatient("e1", visit(class_code="IMP"), own)


@pytest.mark.parametrize(("hours", "stay"), [(23.999, False), (24, True), (100, True)])
def test_a_finished_encounter_of_a_day_is_a_stay_whatever_its_class(hours: float, stay: bool) -> None:
    long = visit(class_code="EMER", ended=START + timedelta(hours=hours))
    assert is_inpatient("e1", long, RULES) is stay
    assert not is_inpatient("e1", long, replace(RULES, min_finished=None))


@pytest.mark.parametrize("changes", [{"status": "in-progress"}, {"started": None}, {"ended": None}])
def test_length_makes_no_stay_of_what_is_not_known_to_have_ended(changes: dict[str, object]) -> None:
    assert not is_inpatient("e1", visit(**({"ended": START + timedelta(days=3)} | changes)), RULES)


@pytest.mark.parametrize(
    ("level", "part"),
    [("einrichtungskontakt", False), ("abteilungskontakt", True), ("versorgungsstellenkontakt", True), ("x", True)],
)
def test_a_german_contact_level_decides_over_part_of(level: str, part: bool) -> None:
    for part_of in (None, "e0"):
        contact = visit(class_code="IMP", level=level, part_of=part_of)
        assert is_part("e1", contact, RULES) is part
        assert is_inpatient("e1", contact, RULES) is not part


def test_without_a_contact_level_part_of_another_encounter_makes_a_part() -> None:
    assert is_part("e1", visit(part_of="e0"), RULES)
    assert not is_part("e1", visit(part_of="e1"), RULES)
    assert not is_part("e1", visit(), RULES)


def test_a_planned_stay_is_no_stay() -> None:
    planned = visit(class_code="IMP", status="planned")
    assert not took_place(planned)
    assert not is_inpatient("e1", planned, RULES)
    assert took_place(visit(status="unknown"))
