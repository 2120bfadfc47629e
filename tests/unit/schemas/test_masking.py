"""Masking leaves nothing of what an event says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from healthalliance.rejected import fhir_elements
from schemas.masking import masked
from schemas.rejection import HINTS, Reason
from tests.unit.schemas.fhir_events import bundle, condition, encounter, medication_request, patient

_WORDS = st.text("äöüß0123456789", min_size=3, max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(1000, 9999) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.just("name"), inner, max_size=4),
    max_leaves=20,
)


def said(document: Any) -> set[str]:
    """List every word and number, names of members too."""
    match document:
        case dict():
            return {name for name in document if name != "name"}.union(*map(said, document.values()))
        case list():
            return set().union(*map(said, document))
        case str() | int() if not isinstance(document, bool):
            return {str(document)}
        case _:
            return set()


@given(_JSON)
def test_no_word_of_an_event_is_in_what_is_shown(document: Any) -> None:
    shown = str(masked(document, {"name"}))
    assert [word for word in said(document) if word in shown] == []


def test_the_elements_that_fhir_names_stay_readable() -> None:
    whole = bundle(patient(), encounter(), condition(), medication_request())
    shown = masked(whole, fhir_elements())
    assert "unknown" not in str(shown)
    assert [entry["resource"]["resourceType"] for entry in shown["entry"]] == [
        "Patient", "Encounter", "Condition", "MedicationRequest",
    ]  # fmt: skip


def test_a_resource_type_that_nobody_knows_is_masked() -> None:
    assert masked({"resourceType": "Erika"}, {"resourceType"}) == {"resourceType": "<5 characters>"}


def test_every_reason_comes_with_a_hint() -> None:
    assert set(HINTS) == set(Reason)
