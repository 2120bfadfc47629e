"""Rows of erased patients in files: found wherever they lie, gone afterwards, and everybody else's are left."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from connectors import dvc
from connectors.settings import Settings
from connectors.snapshot_files import ROWS_FILE, write_snapshot
from healthalliance.erased_files import FilesOf, clear_files, files_of
from model_training.federation.kept import folder_of, keep, kept
from model_training.splitting import Split
from schemas.errors import ConfigurationError
from tests.unit.model_training.stays import dataset_of, pseudonym, simulated, snapshot

GONE, ALIKE, UNKNOWN = (pseudonym(name) for name in ("dkfz-3", "ukhd-3", "nobody"))
RECORDS = simulated(1, 40)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Keep a snapshot of two institutions in DATA_DIR, a tracked one elsewhere, and a split."""
    settings = Settings.model_construct(data_dir=tmp_path / "data")
    write_snapshot(snapshot([*RECORDS, *simulated(2, 40, "ukhd")]), settings.data_dir / "kept")
    write_snapshot(snapshot(RECORDS), tmp_path / "elsewhere")
    dvc.track(tmp_path / "elsewhere" / ROWS_FILE)
    whole = dataset_of(RECORDS)
    nobody = whole.where(whole.readmitted & ~whole.readmitted)
    keep(folder_of(settings.data_dir, "dkfz"), Split(whole, nobody, nobody), b"{}")
    return settings


def looked(settings: Settings, *pseudonyms: str, institution: str = "dkfz") -> dict[str, FilesOf]:
    return files_of(settings, institution, pseudonyms, [settings.data_dir.parent / "elsewhere"])


def told(one: FilesOf) -> tuple[int, int, int, int]:
    return one.rows, len(one.folders), len(one.versions), len(one.kept)


def test_rows_are_found_in_snapshots_versions_and_splits(settings: Settings) -> None:
    rows = sum(one.patient_pseudonym == GONE for one in RECORDS)
    found = looked(settings, GONE, UNKNOWN)
    assert told(found[GONE]) == (2 * rows, 2, 1, 1)
    assert told(found[UNKNOWN]) == (0, 0, 0, 0)
    assert told(looked(settings, GONE, institution="ukhd")[GONE]) == (0, 0, 0, 0)
    assert told(looked(settings, ALIKE, institution="ukhd")[ALIKE])[1:] == (1, 0, 0)


def test_nothing_of_the_erased_is_left_and_all_of_the_others(settings: Settings) -> None:
    tables = {folder: pq.read_table(folder / ROWS_FILE) for folder in looked(settings, GONE)[GONE].folders}
    clear_files("dkfz", [GONE], looked(settings, GONE).values())
    assert told(looked(settings, GONE)[GONE]) == (0, 0, 0, 0)
    for folder, before in tables.items():
        wanted = [row for row in before.to_pylist() if row["patient_pseudonym"].hex() != GONE.replace("-", "")]
        assert pq.read_table(folder / ROWS_FILE).to_pylist() == wanted
        identity = json.loads((folder / "snapshot.json").read_text())
        assert identity["rows_left_out"] == len(before) - len(wanted)
        assert sum(identity["rows"].values()) == len(wanted)
    with pytest.raises(ConfigurationError):
        kept(folder_of(settings.data_dir, "dkfz"))
