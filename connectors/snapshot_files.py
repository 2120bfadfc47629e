"""A snapshot as files: its rows as Parquet, what it is as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.feature_topics import Snapshot
from connectors.partition_ends import PartitionEnd
from schemas.errors import ConfigurationError
from schemas.snapshot import content_digest

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
    return {
        "digest": snapshot.digest,
        "content": snapshot.content,
        "rows": _rows(snapshot.table),
        "ends": [asdict(end) for end in snapshot.ends],
    }


def _rows(table: pa.Table) -> dict[str, int]:
    """Count a table's rows by institution."""
    groups = table.column("institution").value_counts().to_pylist()
    return {group["values"]: group["counts"] for group in sorted(groups, key=lambda group: str(group["values"]))}


def read_identity(path: Path) -> tuple[Sequence[PartitionEnd], str]:
    """Read a snapshot's ends and the digest of its content; raise ConfigurationError for what is no such file."""
    try:
        identity: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        return [PartitionEnd(**end) for end in identity["ends"]], str(identity["content"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{path} is not the {IDENTITY_FILE} of a snapshot.") from error


def snapshot_folders(roots: Iterable[Path]) -> list[Path]:
    """Find the folders that hold a snapshot's two files, at or below the given ones."""
    found = {file.parent for root in roots for file in root.rglob(IDENTITY_FILE)}
    return sorted(folder for folder in found if (folder / ROWS_FILE).is_file())


def rows_by_patient(file: Path, institution: str, pseudonyms: Collection[str]) -> dict[str, int]:
    """Count the rows of an institution's patients in a snapshot's file, by pseudonym."""
    names = ["institution", "patient_pseudonym"]
    wanted, counts = set(pseudonyms), Counter[str]()
    for batch in pq.ParquetFile(file).iter_batches(columns=names):
        rows = batch.filter(pc.equal(batch.column("institution"), institution))
        for value in rows.column("patient_pseudonym").to_pylist():
            pseudonym = str(UUID(bytes=value))
            if pseudonym in wanted:
                counts[pseudonym] += 1
    return dict(counts)


def leave_out(folder: Path, institution: str, pseudonyms: Collection[str]) -> None:
    """Write a snapshot's files anew without an institution's patients; its identity stays, its content is another.

    `rows_left_out` in the second file tells how many rows are missing since, so that nobody takes it for the first.
    """
    table = pq.read_table(folder / ROWS_FILE)
    gone = pa.array([UUID(one).bytes for one in pseudonyms], pa.binary(16))
    theirs = pc.and_(
        pc.equal(table.column("institution"), institution), pc.is_in(table.column("patient_pseudonym"), gone)
    )
    left = table.filter(pc.invert(theirs))
    identity = json.loads((folder / IDENTITY_FILE).read_text("utf-8"))
    identity["content"] = content_digest(left)
    identity["rows"] = _rows(left)
    identity["rows_left_out"] = identity.get("rows_left_out", 0) + len(table) - len(left)
    _replace(folder / IDENTITY_FILE, lambda path: path.write_text(json.dumps(identity, indent=2) + "\n", "utf-8"))
    _replace(folder / ROWS_FILE, lambda path: write_parquet(left, path))


def kept_versions(folder: Path) -> Iterator[Path]:
    """Yield the versions of tables that DVC keeps of a folder's repository on this machine."""
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / ".dvc").is_dir():
            for file in (parent / ".dvc" / "cache" / "files").rglob("*"):
                if file.is_file() and _is_snapshot(file):
                    yield file
            return


def _is_snapshot(file: Path) -> bool:
    with file.open("rb") as opened:
        if opened.read(4) != b"PAR1":
            return False
    return "patient_pseudonym" in pq.read_schema(file).names


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file at once: what DVC keeps may be the same file under another name."""
    new = path.with_name(f".{path.name}.new")
    write(new)
    new.replace(path)
