"""Reading an event never raises, whatever its bytes, and always comes to something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.intake.event import parse_event
from schemas.intake.event_bytes import Limits, is_deeper_than
from schemas.intake.structure import Document, StructureValidator, fhir_resources_issues, fhirkit_issues
from schemas.rejection import Issue, Reason
from tests.unit.schemas.fhir_events import (
    LIMITS,
    bundle,
    condition,
    dkfz,
    encounter,
    findings,
    medication_request,
    parse,
    patient,
    raw,
    to_bytes,
)

VALID = [
    to_bytes(one)
    for one in (
        encounter(),
        patient(),
        condition(),
        medication_request(),
        bundle(patient(), encounter(), condition(), medication_request()),
    )
]
EITHER = pytest.mark.parametrize("validate", [fhirkit_issues, fhir_resources_issues])


def come_to_something(value: bytes | None, key: bytes | None, validate: StructureValidator = fhirkit_issues) -> None:
    parsed = parse_event(raw(value, key=key), dkfz(), LIMITS, validate)
    assert all(issue.text for issue in parsed.issues)
    assert all(entry.version is not None for entry in parsed.entries)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.none(), st.none() | st.binary(max_size=20))
def test_any_bytes_under_any_key_come_to_something(value: bytes | None, key: bytes | None) -> None:
    come_to_something(value, key)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_a_valid_event_with_bytes_changed_comes_to_something(value: bytes, data: st.DataObject) -> None:
    changed = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        if not changed:
            break
    come_to_something(bytes(changed), b"Patient/p1")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Patient/p1", "7"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """List every (object or array, key or index) of a document."""
    found: list[tuple[Any, Any]] = []
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        found.append((document, key))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


@EITHER
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VALID), JSON, st.randoms(use_true_random=False))
def test_an_element_replaced_by_any_json_comes_to_something(
    validate: StructureValidator, value: bytes, replacement: Any, random: Any
) -> None:
    document = json.loads(value)
    holder, key = random.choice(places(document))
    holder[key] = replacement
    come_to_something(to_bytes(document), b"Patient/p1", validate)


def blind(documents: Sequence[Document]) -> list[list[Issue]]:
    """Find no fault with any structure."""
    return [[] for _ in documents]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VALID), JSON, st.randoms(use_true_random=False))
def test_even_where_the_structure_was_not_judged_nothing_is_raised(value: bytes, replacement: Any, random: Any) -> None:
    document = json.loads(value)
    holder, key = random.choice(places(document))
    holder[key] = replacement
    come_to_something(to_bytes(document), b"Patient/p1", blind)


def test_a_shape_that_no_stage_foresaw_is_unreadable() -> None:
    assert findings(parse(encounter(period=[1]), validate=blind)) == [(Reason.UNREADABLE, "")]


TEXT = st.text(alphabet='[]{}",\\: a', max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.integers(0, 9) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=12,
    ),
    st.integers(0, 8),
)
def test_depth_is_counted_as_a_parser_counts_it(document: Any, levels: int) -> None:
    def depth(value: Any) -> int:
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert is_deeper_than(json.dumps(document).encode(), levels) == (depth(document) > levels)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300))
def test_a_size_cap_holds_to_the_byte(cap: int) -> None:
    too_large = (str(Reason.TOO_LARGE), "") in findings(parse(VALID[0], limits=Limits(max_bytes=cap)))
    assert too_large == (len(VALID[0]) > cap)
