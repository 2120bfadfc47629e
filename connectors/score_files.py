"""The standing scores as Parquet: a file for each institution and month of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.view_reading import reading
from connectors.views import VIEWS, ViewColumn
from schemas.errors import ConfigurationError
from schemas.features import FEATURE_NAMES

# So many rows are held at once, and are a row group of the file.
_ROWS_AT_ONCE = 20_000

_TYPES = {
    "text": pa.string(),
    "uuid": pa.string(),
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "double precision": pa.float64(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """A file that was written: whose scores, of which month (UTC, its first moment), how many."""

    path: Path
    institution: str
    month: datetime
    rows: int


def _columns() -> tuple[ViewColumn, ...]:
    [view] = (one for one in VIEWS if one.name == "latest_risk")
    return tuple(one for one in view.columns if one.name != "contributions")


_COLUMNS = _columns()
SCHEMA = pa.schema(
    [(one.name, _TYPES[one.type]) for one in _COLUMNS]
    + [(f"contribution_{name}", pa.float64()) for name in FEATURE_NAMES]
)
_SELECTED = ", ".join(
    [f"{one.name}::text" if one.type == "uuid" else one.name for one in _COLUMNS]
    + [f"(contributions->>'{name}')::double precision" for name in FEATURE_NAMES]
)

_MONTHS = """
SELECT institution, date_trunc('month', received_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month
FROM latest_risk WHERE received_at >= $1 AND ($2::text IS NULL OR institution = $2) GROUP BY 1, 2 ORDER BY 1, 2
"""

_SCORES = f"""
SELECT {_SELECTED} FROM latest_risk WHERE institution = $1 AND received_at >= $2
AND received_at < ($2 AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' ORDER BY received_at, record_id
"""


def export_scores(
    database_url: str,
    folder: Path,
    first_month: datetime,
    institution: str | None = None,
    on_file: Callable[[ScoreFile], None] = lambda _: None,
) -> list[ScoreFile]:
    """Write the standing scores from `first_month` on, all of one moment; `on_file` is told each file that is done.

    Rows lie in the order of arrival and record; a file is renamed to its name when it is complete. Raises
    ConfigurationError where the folder cannot be written to, and what `reading` raises.
    """
    return asyncio.run(_export(database_url, folder, first_month, institution, on_file))


async def _export(
    database_url: str,
    folder: Path,
    first_month: datetime,
    institution: str | None,
    on_file: Callable[[ScoreFile], None],
) -> list[ScoreFile]:
    written = []
    async with reading(database_url, institution) as connection:
        for row in await connection.fetch(_MONTHS, first_month, institution):
            name = f"scores-{row['institution']}-{row['month']:%Y-%m}.parquet"
            rows = await _write(connection, folder / name, row["institution"], row["month"])
            written.append(ScoreFile(folder / name, row["institution"], row["month"], rows))
            on_file(written[-1])
    return written


async def _write(connection: asyncpg.Connection[Any], path: Path, institution: str, month: datetime) -> int:
    cursor = await connection.cursor(_SCORES, institution, month)
    number = 0
    with _complete_or_absent(path) as writer:
        while rows := await cursor.fetch(_ROWS_AT_ONCE):
            _append(writer, _batch(rows))
            number += len(rows)
    return number


def _append(writer: pq.ParquetWriter, batch: pa.RecordBatch) -> None:
    try:
        writer.write_batch(batch)
    except OSError as error:  # told here, or it would seem to be the database's
        raise ConfigurationError(f"The file cannot be written ({error}).") from error


def _batch(rows: Sequence[asyncpg.Record]) -> pa.RecordBatch:
    columns = zip(*map(tuple, rows), strict=True)
    return pa.record_batch([pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[pq.ParquetWriter]:
    """Open a file beside `path` that takes its place at the end, or goes if the block raises."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = pq.ParquetWriter(beside, SCHEMA, compression="zstd")
    except OSError as error:
        raise ConfigurationError(f"{path.parent} cannot be written to ({error.strerror}).") from error
    try:
        with writer:
            yield writer
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
