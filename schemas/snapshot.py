"""A snapshot of encounters' features as an Arrow table: what training reads, one row an encounter."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
        pa.field("summary_only", pa.bool_(), nullable=False),
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


def sorted_by_encounter(table: pa.Table) -> pa.Table:
    """Sort the rows of one institution as a snapshot's are."""
    encounter = uuid_numbers(table.column("encounter_pseudonym"))
    return table.take(pa.array(np.lexsort((encounter[:, 1], encounter[:, 0]))))


def content_digest(table: pa.Table) -> str:
    """Return the SHA-256 of a snapshot's values, column by column, in hexadecimal.

    It does not depend on how the table is cut into chunks, on what lies where a value is missing, or on a file format.
    """
    digest = sha256()
    for name in table.schema.names:
        column = table.column(name)
        digest.update(f"{name} {column.type} {len(column)}\n".encode())
        digest.update(np.asarray(column.is_null().to_numpy()).tobytes())
        digest.update(_value_bytes(column))
    return digest.hexdigest()


def _value_bytes(column: pa.ChunkedArray) -> bytes:
    if pa.types.is_string(column.type):
        numbers, words = word_numbers(column)
        return "\n".join([*words, ""]).encode() + numbers.tobytes()
    if pa.types.is_fixed_size_binary(column.type):
        return uuid_numbers(pc.coalesce(column, pa.scalar(bytes(16), column.type))).tobytes()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return np.asarray(pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy()).tobytes()


def word_numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Return a column of words as numbers, [n], -1 where there is none, and the words they stand for, sorted."""
    words = sorted(word for word in pc.unique(column).to_pylist() if word is not None)
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(words, pa.string())), -1)
    return np.asarray(numbers.to_numpy(), dtype=np.int32), words


def uuid_numbers(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a column of UUIDs without gaps as two numbers each, [n, 2]: they sort as the UUIDs do."""
    parts = [_uuid_numbers(chunk) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.uint64)


def _uuid_numbers(chunk: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    numbers = np.frombuffer(chunk.buffers()[1], dtype=">u8").reshape(-1, 2)
    return numbers[chunk.offset : chunk.offset + len(chunk)].astype(np.uint64)


def _uuid_bytes(text: str | None) -> bytes | None:
    return None if text is None else UUID(text).bytes
