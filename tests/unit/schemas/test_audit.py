"""The chain of the audit log: what was changed is found, whatever it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from hypothesis import given
from hypothesis import strategies as st

from schemas.audit import BEGINNING, Action, AuditEntry, AuditRow, Outcome, chained, digest, fault
from schemas.audit_event import audit_event

AT = datetime(2025, 6, 1, 12, tzinfo=UTC)


def chain(*entries: AuditEntry) -> list[AuditRow]:
    rows, previous = [], BEGINNING
    for number, entry in enumerate(entries, 1):
        previous = chained(previous, number, digest(entry), "worker")
        rows.append(AuditRow(number, entry, "worker", previous))
    return rows


def entry(number: int) -> AuditEntry:
    return AuditEntry("dkfz", AT + timedelta(seconds=number), "key:00ff", Action.READ_SCORE, (f"record:{number}",))


ROWS = chain(*map(entry, range(5)))


def first_broken(rows: list[AuditRow]) -> int | None:
    previous = BEGINNING
    for expected, row in enumerate(rows, 1):
        if broken := fault(previous, expected, row):
            return broken.sequence
        previous = row.hash
    return None


def test_a_chain_as_it_was_written_is_good() -> None:
    assert first_broken(ROWS) is None
    assert first_broken([]) is None


@given(place=st.integers(0, 4), text=st.text(min_size=1))
def test_any_other_text_in_any_row_is_found(place: int, text: str) -> None:
    row = ROWS[place]
    for changed in (
        replace(row, entry=replace(row.entry, subjects=(text,))),
        replace(row, entry=replace(row.entry, subjects=(*row.entry.subjects, text))),
        replace(row, entry=replace(row.entry, agent=text)),
        replace(row, login=row.login + text),
    ):
        assert first_broken([*ROWS[:place], changed, *ROWS[place + 1 :]]) == place + 1


@pytest.mark.parametrize("place", range(4))
def test_a_row_that_was_taken_out_or_swapped_is_found(place: int) -> None:
    one, other = ROWS[place], ROWS[place + 1]
    assert first_broken(ROWS[:place] + ROWS[place + 1 :]) == place + 1
    swapped = [replace(one, entry=other.entry, hash=other.hash), replace(other, entry=one.entry, hash=one.hash)]
    assert first_broken([*ROWS[:place], *swapped, *ROWS[place + 2 :]]) == place + 1


def test_an_entry_is_not_the_same_where_a_subject_is_cut_in_two() -> None:
    assert digest(replace(entry(1), subjects=("a", "b"))) != digest(replace(entry(1), subjects=("ab",)))
    assert digest(replace(entry(1), subjects=('a","b',))) != digest(replace(entry(1), subjects=("a", "b")))


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_entry_is_a_valid_audit_event(action: Action, outcome: Outcome) -> None:
    [row] = chain(
        AuditEntry("all", AT, "operator:root", action, ("model:readmission-risk/3", "event:dkfz/1/2"), outcome)
    )
    document = audit_event(row)
    AuditEvent.model_validate(document)
    assert (document["recorded"], document["subtype"][0]["code"]) == (AT.isoformat(), str(action))
    chain_entity, _, event = document["entity"]
    assert chain_entity["detail"][-1]["valueString"] == row.hash.hex()
    assert event["what"]["identifier"]["value"] == "dkfz/1/2"
