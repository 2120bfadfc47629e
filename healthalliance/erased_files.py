"""Rows of erased patients in files on this machine: exported snapshots, DVC's versions of them, federation's splits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pyarrow as pa

from connectors import dvc
from connectors.settings import Settings
from connectors.snapshot_files import ROWS_FILE, kept_versions, leave_out, rows_by_patient, snapshot_folders
from model_training.dataset import Dataset, persons_of
from model_training.federation.kept import folder_of, kept
from schemas.errors import ConfigurationError


@dataclass(slots=True)
class FilesOf:
    """Where rows of a patient lie: rows in snapshots and their folders, DVC's versions, kept splits."""

    rows: int = 0
    folders: list[Path] = field(default_factory=list)
    versions: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def files_of(
    settings: Settings, institution: str, pseudonyms: Collection[str], roots: Iterable[Path]
) -> dict[str, FilesOf]:
    """Look for rows of patients, by pseudonym, in DATA_DIR and below the given folders."""
    found = {pseudonym: FilesOf() for pseudonym in pseudonyms}
    folders = snapshot_folders([settings.data_dir, *roots])
    for folder in folders:
        for pseudonym, number in rows_by_patient(folder / ROWS_FILE, institution, pseudonyms).items():
            found[pseudonym].rows += number
            found[pseudonym].folders.append(folder)
    for version in {version for folder in folders for version in kept_versions(folder)}:
        for pseudonym in rows_by_patient(version, institution, pseudonyms):
            found[pseudonym].versions.append(version)
    split = _kept_persons(folder_of(settings.data_dir, institution))
    for pseudonym, one in found.items():
        if _person(institution, pseudonym) in split:
            one.kept.append(folder_of(settings.data_dir, institution) / "split.npz")
    return found


def clear_files(institution: str, pseudonyms: Sequence[str], files: Iterable[FilesOf]) -> None:
    """Write snapshots anew without the patients; remove DVC's versions and kept splits that hold them."""
    files = list(files)
    for folder in sorted({folder for one in files for folder in one.folders}):
        leave_out(folder, institution, pseudonyms)
        if (folder / f"{ROWS_FILE}.dvc").exists():
            dvc.track(folder / ROWS_FILE)
    for path in {path for one in files for path in (*one.versions, *one.kept)}:
        path.unlink(missing_ok=True)


def _kept_persons(folder: Path) -> frozenset[bytes]:
    try:
        split, _ = kept(folder)
    except ConfigurationError:
        return frozenset()
    parts: tuple[Dataset, ...] = (split.fit, split.calibrate, split.test)
    return frozenset(bytes(person) for part in parts for person in part.persons)


def _person(institution: str, pseudonym: str) -> bytes:
    column = pa.array([UUID(pseudonym).bytes], pa.binary(16))
    names = ["institution", "patient_pseudonym", "person_pseudonym"]
    [person] = persons_of(pa.table([pa.array([institution]), column, pa.nulls(1, pa.binary(16))], names))
    return bytes(person)
