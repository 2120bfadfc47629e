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


def equals(table: pa.Table, name: str, word: str) -> NDArray[np.bool_]:
    """Tell where a column of words holds `word`, [n]; where there is none it does not."""
    return np.asarray(pc.fill_null(pc.equal(table.column(name), word), False).to_numpy(), dtype=np.bool_)
