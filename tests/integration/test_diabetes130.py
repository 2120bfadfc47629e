"""Some hundred rows of Diabetes 130 on the real stack: counted, labelled and scored as the file says."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from connectors.datasets.diabetes130 import Stay, read_stays
from connectors.datasets.diabetes130.codes import ADMIT_SOURCE, DISPOSITION, PRIORITY
from connectors.feature_topics import read_snapshot
from connectors.settings import Settings
from healthalliance.progress import fetch, read_progress, wait_until_applied
from healthalliance.workers import WorkerProcesses
from model_training.labels import label
from schemas.features import FEATURE_NAMES
from schemas.pseudonyms import institution_keys
from tests.bench.diabetes130_rows import columns_of, compared, places_in
from tests.integration.command_line import of_local_stack, run
from tests.integration.reading import latest_risk
from tests.integration.running import DIABETES130, Trained, wait_until

pytestmark = pytest.mark.stack

_INSTITUTION = "ukhd"
_EVERY_NTH_ROW, _ROWS = 200, 300


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DIABETES130.exists():
        pytest.skip(f"needs {DIABETES130.name} in shared/data beside the project")
    path = tmp_path_factory.mktemp("diabetes130") / "some.csv"
    with gzip.open(DIABETES130, "rt") as whole:
        header, *rows = islice(whole, 1 + _EVERY_NTH_ROW * _ROWS)
    path.write_text("".join([header, *rows[::_EVERY_NTH_ROW]]))
    return path


@dataclass(frozen=True, slots=True)
class Published:
    """The rows, and how the events of their first and second part ended."""

    settings: Settings = field(repr=False)
    stays: list[Stay] = field(repr=False)
    reports: tuple[dict[str, Any], ...]
    rejected: int


@pytest.fixture(scope="module")
def published(trained: Trained, worker: WorkerProcesses, file: Path) -> Published:
    settings, local = trained.settings, of_local_stack(trained.settings)
    before = read_progress(settings)[_INSTITUTION].outcomes["rejected"]
    command = ("publish", _INSTITUTION, file, "--dataset", "diabetes130", "--json")
    ended = [run(local, *command, "--part", part) for part in ("1/2", "2/2")]
    assert [one.code for one in ended] == [0, 0], ended
    rejected = wait_until_applied(settings, 120)[_INSTITUTION].outcomes["rejected"] - before
    return Published(settings, read_stays(file), tuple(one.document for one in ended), rejected)


def test_every_row_is_published_in_one_of_the_parts_and_none_is_rejected(published: Published) -> None:
    returns = sum(stay.readmitted != "NO" for stay in published.stays)
    ends = 2
    assert sum(one["published"] for one in published.reports) == len(published.stays) + returns + ends
    assert min(one["published"] for one in published.reports) > _ROWS / 3
    assert published.rejected == 0


def test_the_topic_holds_the_files_columns_as_features_and_its_outcomes_as_labels(published: Published) -> None:
    settings = published.settings
    keys = institution_keys(settings.pseudonym_key.get_secret_value(), _INSTITUTION)

    def difference() -> dict[str, Any]:
        table = read_snapshot(settings, institution_ids=[_INSTITUTION]).table
        found = compared(table, label(table), published.stays, places_in(table, published.stays, keys))
        lacking = {"missing": found.missing, "different": found.labels_different, "lacking": found.labels_lacking}
        return lacking | {name: rows for name, rows in found.features.items() if rows}

    wait_until("every stay is on the topic", lambda: difference()["missing"] == 0)  # published after the commit
    assert difference() == {"missing": 0, "different": 0, "lacking": 0}


def test_a_worker_scores_every_row_and_no_visit_that_is_only_counted(published: Published) -> None:
    ids = {stay.encounter_id for stay in published.stays}
    scored = latest_risk(published.settings, _INSTITUTION, ids)
    stored = {id_: tuple(one[name] for name in FEATURE_NAMES) for id_, one in scored.items()}
    assert stored == {stay.encounter_id: columns_of(stay) for stay in published.stays}
    years = "SELECT count(*) AS n FROM risk_scores WHERE institution = $1 AND as_of < '2011-01-01'"
    assert fetch(published.settings, years, _INSTITUTION)[0]["n"] == len(published.stays)


def test_every_id_that_the_file_explains_has_a_meaning(file: Path) -> None:
    meanings = {"admission_type_id": PRIORITY, "discharge_disposition_id": DISPOSITION}
    with (DIABETES130.parent / "diabetes130-ids-mapping.csv").open(newline="") as mapping:
        explained: dict[str, set[str]] = {}
        for first, *_ in csv.reader(mapping):
            if first.endswith("_id"):
                ids = explained.setdefault(first, set())
            elif first:
                ids.add(first)
    assert {name: set(known) for name, known in meanings.items()} == {name: explained[name] for name in meanings}
    assert set(ADMIT_SOURCE) <= explained["admission_source_id"]
