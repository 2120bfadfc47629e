"""A snapshot as files: its rows as Parquet, what it is as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.feature_topics import PartitionEnd, Snapshot
from schemas.errors import ConfigurationError

ROWS_FILE, IDENTITY_FILE = "features.parquet", "snapshot.json"

_ROW_GROUP = 100_000


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a snapshot's table; the same rows give the same bytes, however the table is cut into chunks."""
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for start in range(0, len(table), _ROW_GROUP):
            writer.write_table(table.slice(start, _ROW_GROUP).combine_chunks(), row_group_size=_ROW_GROUP)


def write_snapshot(snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    """Write a snapshot's two files into a folder, which is made where it is missing; return what the second says."""
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(snapshot.table, folder / ROWS_FILE)
    identity = describe(snapshot)
    (folder / IDENTITY_FILE).write_text(json.dumps(identity, indent=2) + "\n", "utf-8")
    return identity


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a snapshot is: its identity, its rows by institution, the digests of both."""
    rows = Counter[str]()
    for group in snapshot.table.column("institution").value_counts().to_pylist():
        rows[group["values"]] = group["counts"]
    return {
        "digest": snapshot.digest,
        "content": snapshot.content,
        "rows": dict(sorted(rows.items())),
        "ends": [asdict(end) for end in snapshot.ends],
    }


def read_identity(path: Path) -> tuple[Sequence[PartitionEnd], str]:
    """Read a snapshot's ends and the digest of its content; raise ConfigurationError for what is no such file."""
    try:
        identity: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        return [PartitionEnd(**end) for end in identity["ends"]], str(identity["content"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{path} is not the {IDENTITY_FILE} of a snapshot.") from error
