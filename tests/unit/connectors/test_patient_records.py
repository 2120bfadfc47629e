"""Which patients an event names, whatever its bytes are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.patient_records import patients_named
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, {"key"}),
        (to_bytes(encounter(patient="p1")), {"key", "p1"}),
        (to_bytes(bundle(patient("p1"), encounter(patient="p2"))), {"key", "p1", "p2"}),
        (b'{"subject": {"reference": "Patient\\/p1"', {"key", "p1"}),  # no JSON
        (b'{"subject": {"reference": "\\u0050atient/p1"}}', {"key", "p1"}),
        (b"\xff\xfe", {"key"}),
    ],
)
def test_key_references_and_resources_name_patients(value: bytes | None, named: set[str]) -> None:
    assert patients_named(b"Patient/key", value) == named


@given(st.binary(), st.binary())
def test_no_bytes_are_too_much(before: bytes, after: bytes) -> None:
    assert "p1" in patients_named(None, before + b"Patient/p1 " + after)


def test_no_depth_is_too_much() -> None:
    for depth in (300, 100_000):
        assert patients_named(None, b'{"a":' * depth + b'"Patient/p1"' + b"}" * depth) == {"p1"}
