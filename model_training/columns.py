"""A snapshot's columns as numpy arrays: pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def flags(table: pa.Table, name: str) -> NDArray[np.bool_]:
    """Return a boolean column, [n]."""
    return np.asarray(table.column(name).to_numpy(), dtype=np.bool_)


def microseconds(table: pa.Table, name: str, missing: int) -> NDArray[np.int64]:
    """Return a column of times as microseconds since 1970 in UTC, [n], `missing` where there is none."""
    numbers = pc.fill_null(table.column(name).cast(pa.int64()), missing)
    return np.asarray(numbers.to_numpy(), dtype=np.int64)


def codes(table: pa.Table, name: str) -> tuple[NDArray[np.int32], list[str]]:
    """Return a column of words as numbers, [n], -1 where there is none, and the words they stand for, sorted."""
    column = table.column(name)
    words = sorted(word for word in pc.unique(column).to_pylist() if word is not None)
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(words, pa.string())), -1)
    return np.asarray(numbers.to_numpy(), dtype=np.int32), words


def equals(table: pa.Table, name: str, word: str) -> NDArray[np.bool_]:
    """Tell where a column of words holds `word`, [n]; where there is none it does not."""
    return np.asarray(pc.fill_null(pc.equal(table.column(name), word), False).to_numpy(), dtype=np.bool_)


def uuids(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a column of UUIDs without gaps as two numbers each, [n, 2]: they sort as the UUIDs do."""
    parts = [_uuids(chunk) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.uint64)


def _uuids(chunk: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    numbers = np.frombuffer(chunk.buffers()[1], dtype=">u8").reshape(-1, 2)
    return numbers[chunk.offset : chunk.offset + len(chunk)].astype(np.uint64)
