"""Records of a feature topic as rows of a table, the newest of each encounter, without an object for each."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro.read import SchemaResolutionError
from numpy.typing import NDArray

from connectors.registry import Registry
from schemas.errors import IncompatibleSchemaError, UnavailableError
from schemas.features import FEATURE_NAMES
from schemas.snapshot import SNAPSHOT_SCHEMA

# So many records are objects at once; columns of fewer would cost more than they hold.
_CHUNK = 50_000

# Rows are merged into those before when they are as many, or so many: each is moved a few times, whatever the length.
_FEWEST_TO_MERGE = 200_000

_UUID_LENGTH = 36  # as text
_UNREADABLE = (SchemaResolutionError, struct.error, EOFError, ValueError, TypeError, LookupError, OverflowError)

ReadValue = Callable[[bytes], dict[str, Any]]


def value_reader(registry: Registry) -> ReadValue:
    """Return what reads a value of a feature topic as the fields of its record, times in µs since 1970.

    It raises UnavailableError where the registry does not give the schema.
    """
    read = registry.plain_reader("EncounterFeatures")

    def reading(value: bytes) -> dict[str, Any]:
        try:
            return read(value)
        except (SchemaRegistryError, httpx2.HTTPError, OSError) as error:
            raise UnavailableError(
                "The schema registry at SCHEMA_REGISTRY_URL does not give a record's schema."
            ) from error

    return reading


class NewestRows:
    """A partition's records, told in the order of their offsets: the newest row of each key.

    A chunk of records waits as it came; chunks wait as columns until there are enough to be merged. At most twice the
    rows that count are held, however often a key was superseded.
    """

    def __init__(self, topic: str, read: ReadValue, *, chunk: int = _CHUNK, merge: int = _FEWEST_TO_MERGE) -> None:
        self._topic, self._read, self._chunk_size, self._fewest_to_merge = topic, read, chunk, merge
        self._waiting: dict[bytes, bytes | None] = {}
        self._rows = _Rows.none()
        self._chunks: list[_Rows] = []

    def __len__(self) -> int:
        """Tell how many rows are held, those that wait included."""
        return len(self._rows.keys) + sum(len(chunk.keys) for chunk in self._chunks) + len(self._waiting)

    def add(self, key: bytes, value: bytes | None) -> None:
        """Take the next record; None is a tombstone. Raises IncompatibleSchemaError for what is none."""
        self._waiting[key] = value
        if len(self._waiting) >= self._chunk_size:
            self._take_waiting()

    def table(self) -> pa.Table:
        """Return the rows that count, in no order; forget them."""
        self._take_waiting()
        self._merge()
        rows, self._rows = self._rows, _Rows.none()
        return rows.table

    def _take_waiting(self) -> None:
        if self._waiting:
            self._chunks.append(_read_chunk(self._topic, self._waiting, self._read))
            self._waiting = {}
        waiting = sum(len(chunk.keys) for chunk in self._chunks)
        if waiting >= max(self._fewest_to_merge, len(self._rows.keys)):
            self._merge()

    def _merge(self) -> None:
        self._rows = _newest([self._rows, *self._chunks])
        self._chunks = []


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of `SNAPSHOT_SCHEMA` and the keys they came under.

    keys: uint64 [n, 2]. places: int64 [n], each key's row, -1 where a tombstone removes it.
    """

    table: pa.Table
    keys: NDArray[np.uint64]
    places: NDArray[np.int64]

    @staticmethod
    def none() -> _Rows:
        return _Rows(SNAPSHOT_SCHEMA.empty_table(), np.empty((0, 2), dtype=np.uint64), np.empty(0, dtype=np.int64))


def _newest(parts: Sequence[_Rows]) -> _Rows:
    """Put parts together, the older first: of each key the last place counts, tombstones and what they hide go."""
    table = pa.concat_tables(part.table for part in parts)
    keys = np.concatenate([part.keys for part in parts])
    starts = np.cumsum([0, *(len(part.table) for part in parts[:-1])])
    both = zip(parts, starts, strict=True)
    places = np.concatenate([np.where(part.places < 0, -1, part.places + start) for part, start in both])
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: a key's places stay in their order
    is_last = np.ones(len(order), dtype=np.bool_)
    is_last[:-1] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    counting = order[is_last]
    counting = counting[places[counting] >= 0]
    counting = counting[np.argsort(places[counting])]
    if len(counting) < len(table):
        table = table.take(pa.array(places[counting]))
    return _Rows(table, keys[counting], np.arange(len(counting)))


def _read_chunk(topic: str, values: Mapping[bytes, bytes | None], read: ReadValue) -> _Rows:
    keys = [key for key, value in values.items() if value is not None]
    removed = [key for key, value in values.items() if value is None]
    try:
        table = _columns([read(value) for value in values.values() if value is not None])
        numbers = np.frombuffer(_uuid_bytes([key.decode() for key in (*keys, *removed)]), dtype=">u8")
    except _UNREADABLE as error:
        raise IncompatibleSchemaError(f"{topic} holds a record that this code cannot read.") from error
    places = np.append(np.arange(len(keys)), np.full(len(removed), -1))
    return _Rows(table, numbers.reshape(-1, 2).astype(np.uint64), places)


def _columns(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Lay the fields of records out as columns; raise one of `_UNREADABLE` for what is no record."""
    return pa.table([_column(field, records) for field in SNAPSHOT_SCHEMA], schema=SNAPSHOT_SCHEMA)


def _column(field: pa.Field, records: Sequence[Mapping[str, Any]]) -> pa.Array:
    if field.name in FEATURE_NAMES:
        return pa.array([record["features"][field.name] for record in records], field.type)
    values = [record[field.name] for record in records]
    if not pa.types.is_fixed_size_binary(field.type):
        return pa.array(values, field.type)
    if field.nullable:
        return pa.array([None if text is None else _uuid_bytes([text]) for text in values], field.type)
    return pa.FixedSizeBinaryArray.from_buffers(field.type, len(values), [None, pa.py_buffer(_uuid_bytes(values))])


def _uuid_bytes(texts: Sequence[str]) -> bytes:
    """Return the 16 bytes of each UUID, one after another; raise ValueError for what is none."""
    if any(len(text) != _UUID_LENGTH for text in texts):
        raise ValueError("no UUID")
    data = bytes.fromhex("".join(texts).replace("-", ""))
    if len(data) != 16 * len(texts):
        raise ValueError("no UUID")
    return data
