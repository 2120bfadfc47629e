"""Made-up files in the format of Diabetes 130."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

from hypothesis import strategies as st

from connectors.datasets.diabetes130.codes import ADMIT_SOURCE, AGE_YEARS, DISPOSITION, DRUGS, GENDER, PRIORITY

ROW = {
    "encounter_id": "1001",
    "patient_nbr": "7",
    "gender": "Female",
    "age": "[70-80)",
    "admission_type_id": "1",
    "discharge_disposition_id": "1",
    "admission_source_id": "7",
    "time_in_hospital": "3",
    "payer_code": "?",
    "medical_specialty": "?",
    "num_medications": "4",
    "number_outpatient": "0",
    "number_emergency": "0",
    "number_inpatient": "0",
    "diag_1": "250.83",
    "diag_2": "?",
    "diag_3": "?",
    "number_diagnoses": "5",
    **dict.fromkeys(DRUGS, "No"),
    "readmitted": "NO",
}

Row = Mapping[str, str]


def row(encounter_id: int = 1001, **columns: object) -> dict[str, str]:
    """Make a row; what it is about is what is passed."""
    return {**ROW, "encounter_id": str(encounter_id), **{name: str(value) for name, value in columns.items()}}


def write(path: Path, rows: Iterable[Row], lacking: str | None = None) -> Path:
    """Write rows as a file, compressed if its name says so."""
    names = [name for name in ROW if name != lacking]
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _counts(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, most)


@st.composite
def _any_row(draw: st.DrawFn, encounter_id: int) -> dict[str, str]:
    drugs = draw(st.sets(st.sampled_from(DRUGS), max_size=4))
    diagnoses = [draw(st.sampled_from(["?", "250.83", "428", "V57", "E888"])) for _ in range(3)]
    named = len(set(diagnoses) - {"?"})
    return row(
        encounter_id,
        patient_nbr=draw(st.integers(0, 10**9)),
        gender=draw(st.sampled_from(list(GENDER))),
        age=draw(st.sampled_from(list(AGE_YEARS))),
        admission_type_id=draw(st.sampled_from(list(PRIORITY))),
        admission_source_id=draw(st.sampled_from([*ADMIT_SOURCE, "1", "17"])),
        discharge_disposition_id=draw(st.sampled_from(list(DISPOSITION))),
        time_in_hospital=draw(_counts(14)),
        number_inpatient=draw(_counts(21)),
        number_emergency=draw(_counts(76)),
        number_outpatient=draw(_counts(42)),
        diag_1=diagnoses[0],
        diag_2=diagnoses[1],
        diag_3=diagnoses[2],
        number_diagnoses=named + draw(_counts(16)),
        num_medications=len(drugs) + draw(_counts(80)),
        readmitted=draw(st.sampled_from(["<30", ">30", "NO"])),
        **dict.fromkeys(drugs, draw(st.sampled_from(["Steady", "Up", "Down"]))),
    )


@st.composite
def any_rows(draw: st.DrawFn, most: int) -> list[dict[str, str]]:
    """Make a file's rows: any that the format allows, with counts as high as in the real one."""
    ids = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=most, unique=True))
    return [draw(_any_row(number)) for number in ids]
