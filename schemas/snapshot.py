"""A snapshot of encounters' features as an Arrow table: what training reads, one row an encounter."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import pyarrow as pa

from schemas.features import FEATURE_NAMES
from schemas.messages import EncounterFeatures

_UUID = pa.binary(16)
_TIME = pa.timestamp("us", tz="UTC")
_UUIDS = ("patient_pseudonym", "encounter_pseudonym", "person_pseudonym")

# The columns of `EncounterFeatures` that labels and splits are made of, then the features by name.
# Pseudonyms are a UUID's 16 bytes. Rows are sorted by institution and encounter_pseudonym.
SNAPSHOT_SCHEMA = pa.schema(
    [
        pa.field("institution", pa.string(), nullable=False),
        pa.field("patient_pseudonym", _UUID, nullable=False),
        pa.field("encounter_pseudonym", _UUID, nullable=False),
        pa.field("person_pseudonym", _UUID),
        pa.field("status", pa.string(), nullable=False),
        pa.field("class_code", pa.string()),
        pa.field("inpatient", pa.bool_(), nullable=False),
        pa.field("planned", pa.bool_(), nullable=False),
        pa.field("admitted_at", _TIME, nullable=False),
        pa.field("discharged_at", _TIME),
        pa.field("as_of", _TIME, nullable=False),
        pa.field("disposition", pa.string()),
        pa.field("deceased_at", _TIME),
        pa.field("feature_set", pa.int16(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=name == "age_years") for name in FEATURE_NAMES),
    ]
)

_PLAIN = tuple(name for name in SNAPSHOT_SCHEMA.names if name not in (*_UUIDS, *FEATURE_NAMES))


def snapshot_table(records: Iterable[EncounterFeatures]) -> pa.Table:
    """Lay records out as a snapshot, sorted; at most one record an encounter is expected."""
    ordered = sorted(records, key=lambda record: (record.institution, record.encounter_pseudonym))
    columns: dict[str, list[object]] = {
        **{name: [getattr(record, name) for record in ordered] for name in _PLAIN},
        **{name: [_uuid_bytes(getattr(record, name)) for record in ordered] for name in _UUIDS},
        **{name: [getattr(record.features, name) for record in ordered] for name in FEATURE_NAMES},
    }
    return pa.table({name: columns[name] for name in SNAPSHOT_SCHEMA.names}, schema=SNAPSHOT_SCHEMA)


def _uuid_bytes(text: str | None) -> bytes | None:
    return None if text is None else UUID(text).bytes
