"""Show an event's shape without what it says of anybody."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from schemas.intake.resources import READERS

_TYPES = frozenset({"Bundle", "Medication", *READERS})


def masked(document: Any, elements: Set[str]) -> Any:
    """Replace every value by its kind and every name that is no FHIR element of `elements` by a number.

    Only `resourceType` keeps its value, where it is one that is known here.

    >>> masked({"resourceType": "Patient", "id": "p1", "Erika": 1}, {"resourceType", "id"})
    {'resourceType': 'Patient', 'id': '<2 characters>', '<unknown 1>': '<number>'}
    """
    match document:
        case dict():
            unknown = [name for name in document if name not in elements]
            shown = {name: f"<unknown {number}>" for number, name in enumerate(unknown, start=1)}
            return {shown.get(name, name): _masked_member(name, one, elements) for name, one in document.items()}
        case list():
            return [masked(one, elements) for one in document]
        case bool():
            return "<boolean>"
        case int() | float():
            return "<number>"
        case str():
            return f"<{len(document)} characters>"
        case _:
            return None


def _masked_member(name: str, value: Any, elements: Set[str]) -> Any:
    if name == "resourceType" and isinstance(value, str) and value in _TYPES:
        return value
    return masked(value, elements)
