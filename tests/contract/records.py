"""Any record of the output topics, for properties."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar, get_type_hints

from hypothesis import strategies as st

from schemas.features import Features
from schemas.messages import EncounterFeatures, RiskScore

_Record = TypeVar("_Record", Features, RiskScore, EncounterFeatures)

_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=40),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    datetime: st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    dict[str, float]: st.dictionaries(st.text(max_size=10), st.floats(allow_nan=False), max_size=4),
}
_VALUES |= {hint | None: st.none() | values for hint, values in list(_VALUES.items())}


def records(kind: type[_Record]) -> st.SearchStrategy[_Record]:
    """Make any record of a kind; every field takes any value of its type."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: _VALUES[hints[field.name]] for field in fields(kind)})


_VALUES[Features] = records(Features)
_VALUES[Features | None] = st.none() | _VALUES[Features]
