"""A file scored by itself and the same file through the stream give the same numbers, row by row."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from connectors.settings import Settings
from healthalliance.progress import read_progress, wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.features import FEATURE_NAMES
from tests.integration.command_line import of_local_stack, run
from tests.integration.reading import latest_risk
from tests.integration.running import Trained

pytestmark = pytest.mark.stack

_CHAMPION = "models:/readmission-risk@champion"
_EVERY_NTH_BUNDLE = 25
_ERASURE = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [{"request": {"method": "DELETE", "url": "Patient/both-ukhd-000003"}}],
}


@dataclass(frozen=True, slots=True)
class Both:
    """A file's scores: as `healthalliance score` printed them and as the stream stored them, by encounter id."""

    printed: dict[str, dict[str, Any]] = field(repr=False)
    stored: dict[str, dict[str, Any]] = field(repr=False)
    rejected_of_file: int
    rejected_in_stream: int


def score_both_ways(settings: Settings, institution: str, path: Path) -> Both:
    printed = run(of_local_stack(settings), "score", path, "--institution", institution, "--model", _CHAMPION, "--json")
    assert printed.code == 0, printed.stderr
    before = read_progress(settings)[institution].outcomes["rejected"]
    assert run(of_local_stack(settings), "publish", institution, path, "--json").code == 0
    after = wait_until_applied(settings, 120)[institution].outcomes["rejected"]
    rejected = int(printed.stderr.split(maxsplit=1)[0]) if printed.stderr else 0
    by_id = {one["encounter_id"]: one for one in printed.document}
    assert len(by_id) == len(printed.document)
    return Both(by_id, latest_risk(settings, institution, encounter_ids(path)), rejected, after - before)


def encounter_ids(path: Path) -> set[str]:
    """Find the ids of all Encounters in a folder or file of Bundles, whatever else is in it."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {id_ for file in files for line in file.read_text().splitlines() for id_ in _ids(line)}


def _ids(line: str) -> Iterable[str]:
    try:
        document = json.loads(line)
    except ValueError:
        return []
    resources = [entry.get("resource", {}) for entry in document.get("entry", [])]
    return [one["id"] for one in resources if one.get("resourceType") == "Encounter"]


@pytest.fixture(scope="module")
def simulated(trained: Trained, worker: WorkerProcesses, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Have the command line simulate a file with faults, and erase one of its patients at the end."""
    path = tmp_path_factory.mktemp("simulated") / "events.ndjson"
    window = ("--from", "2022-01-01", "--until", "2023-09-01", "--patients", 60, "--faults", 0.1, "--seed", 5)
    assert run(of_local_stack(trained.settings), "simulate", "ukhd", *window, "--to", path, "--json").code == 0
    path.write_text(path.read_text().replace("sim-", "both-") + json.dumps(_ERASURE) + "\n")
    return score_both_ways(trained.settings, "ukhd", path)


@pytest.fixture(scope="module")
def synthea_bundles(
    trained: Trained, worker: WorkerProcesses, synthea: Path, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    folder = tmp_path_factory.mktemp("synthea")
    with tarfile.open(synthea) as tar:
        patients = [one for one in tar if one.name.endswith(".json") and "Information" not in one.name]
        for member in patients[::_EVERY_NTH_BUNDLE]:
            file = tar.extractfile(member)
            assert file is not None
            # One line, so that its ids are found as in NDJSON.
            (folder / Path(member.name).name).write_text(json.dumps(json.load(file)))
    return score_both_ways(trained.settings, "ukhd", folder)


def differences(both: Both, *, versions: bool) -> list[tuple[str, str]]:
    """List (encounter id, column) wherever file and stream differ; contributions and features as a whole."""
    return [
        (id_, name)
        for id_, row in both.stored.items()
        for name, stored in comparable(row, versions=versions).items()
        if both.printed[id_][name] != stored
    ]


def comparable(row: dict[str, Any], *, versions: bool) -> dict[str, Any]:
    same_names = ("probability", "band", "baseline", "model_version", "inpatient")
    return {
        **{name: row[name] for name in same_names},
        **({"version": row["encounter_version"]} if versions else {}),
        "as_of": row["as_of"].isoformat(),
        "contributions": json.loads(row["contributions"]),
        "features": {name: row[name] for name in FEATURE_NAMES},
    }


def test_a_simulated_file_scores_alike_by_itself_and_in_the_stream(simulated: Both) -> None:
    assert len(simulated.stored) > 100
    assert simulated.printed.keys() == simulated.stored.keys()
    assert differences(simulated, versions=True) == []


def test_a_simulated_file_is_rejected_in_part_alike_by_itself_and_in_the_stream(simulated: Both) -> None:
    assert simulated.rejected_of_file == simulated.rejected_in_stream > 0


def test_an_erased_patient_has_no_score_from_the_file_nor_in_the_stream(simulated: Both) -> None:
    assert any(id_.startswith("both-ukhd-000004-") for id_ in simulated.stored)
    assert [id_ for id_ in simulated.stored if id_.startswith("both-ukhd-000003-")] == []
    assert [id_ for id_ in simulated.printed if id_.startswith("both-ukhd-000003-")] == []


def test_synthea_bundles_score_alike_by_themselves_and_in_the_stream(synthea_bundles: Both) -> None:
    assert len(synthea_bundles.stored) > 20
    assert synthea_bundles.printed.keys() == synthea_bundles.stored.keys()
    # Without meta.versionId the version is the offset, which a file and a topic count differently.
    assert differences(synthea_bundles, versions=False) == []
