"""The Diabetes 130 file, read and put in time: one stay a row."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from sys import intern
from typing import IO, TypeVar, cast

from connectors.datasets.diabetes130.codes import ADMIT_SOURCE, AGE_YEARS, DISPOSITION, DRUGS, GENDER, PRIORITY
from schemas.errors import ConfigurationError

# The file's years (doi:10.1155/2014/781670), less the end's last weeks, in which patients may still come back.
FIRST_ADMISSION = datetime(1999, 1, 1, 8, tzinfo=UTC)
LAST_ADMISSION = datetime(2008, 11, 30, 8, tzinfo=UTC)

_MISSING = "?"
_NOT_GIVEN = "No"
_MOST = 500  # of anything a row counts; the file's highest count is 81
_COLUMNS = frozenset(
    [
        *("encounter_id", "patient_nbr", "gender", "age", "admission_type_id", "admission_source_id"),
        *("discharge_disposition_id", "time_in_hospital", "medical_specialty", "payer_code", "readmitted"),
        *("number_inpatient", "number_emergency", "number_outpatient", "number_diagnoses", "num_medications"),
        *("diag_1", "diag_2", "diag_3", *DRUGS),
    ]
)

_T = TypeVar("_T")


class Readmitted(StrEnum):
    """Whether and when the patient came back, in the file's words; days after the discharge."""

    WITHIN_30_DAYS = "<30"
    LATER = ">30"
    NO = "NO"


_READMITTED = {str(one): one for one in Readmitted}


@dataclass(frozen=True, slots=True)
class Stay:
    """A row of the file and the time its stay is given.

    Names are the file's columns; gender, priority, admit_source and disposition are FHIR's codes, age_years is the
    bracket's middle, diagnoses are the distinct ICD-9-CM codes, drugs the named ones that were given.
    """

    encounter_id: str
    patient_nbr: str
    admitted: datetime
    gender: str
    age_years: int
    priority: str | None
    admit_source: str | None
    disposition: str | None
    time_in_hospital: int
    number_inpatient: int
    number_emergency: int
    number_outpatient: int
    number_diagnoses: int
    num_medications: int
    diagnoses: tuple[str, ...]
    drugs: tuple[str, ...]
    medical_specialty: str
    payer_code: str
    readmitted: Readmitted

    @property
    def patient_id(self) -> str:
        """The Patient's id: a row counts its own past, so it stands as a patient of its own."""
        return f"{self.patient_nbr}-{self.encounter_id}"

    @property
    def discharged(self) -> datetime:
        """When the stay ended, in UTC."""
        return self.admitted + timedelta(days=self.time_in_hospital)


def read_stays(path: Path) -> list[Stay]:
    """Read the file, plain or .gz, by rising encounter_id.

    It has no dates, but its ids rise in time: admissions are spread evenly from FIRST_ADMISSION to LAST_ADMISSION in
    their order. Raises ConfigurationError that names file and line of what is not as it should be.
    """
    stays: dict[int, Stay] = {}
    with _opened(path) as (header, rows):
        for line, fields in rows:
            try:
                stay = _stay(dict(zip(header, fields, strict=True)))
                if int(stay.encounter_id) in stays:
                    raise ValueError("encounter_id occurs in an earlier row")
            except ValueError as error:
                raise ConfigurationError(f"{path}, line {line}: {error}.") from None
            stays[int(stay.encounter_id)] = stay
    ordered = [stays[number] for number in sorted(stays)]
    step = (LAST_ADMISSION - FIRST_ADMISSION) / max(len(ordered) - 1, 1)
    return [
        replace(stay, admitted=(FIRST_ADMISSION + place * step).replace(microsecond=0))
        for place, stay in enumerate(ordered)
    ]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """Open the file: the names of its columns, and the fields of each row with its line."""
    try:
        with path.open("rb") as on_disk:
            plain = cast("IO[bytes]", gzip.GzipFile(fileobj=on_disk)) if path.suffix == ".gz" else on_disk
            reader = csv.reader(io.TextIOWrapper(plain, "utf-8", newline=""), strict=True)
            header = next(reader, [])
            if missing := _COLUMNS.difference(header):
                raise ConfigurationError(f"{path}, line 1: lacks {', '.join(sorted(missing))}.")
            yield header, ((reader.line_num, fields) for fields in reader)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"The file {path} cannot be read: {error}.") from error


def _stay(row: Mapping[str, str]) -> Stay:
    """Read a row; raise ValueError that says what is wrong with it."""
    codes = (row[name] for name in ("diag_1", "diag_2", "diag_3"))
    stay = Stay(
        encounter_id=str(_number(row, "encounter_id", 10**18)),
        patient_nbr=str(_number(row, "patient_nbr", 10**18)),
        admitted=FIRST_ADMISSION,
        gender=_meaning(row, "gender", GENDER),
        age_years=_meaning(row, "age", AGE_YEARS),
        priority=_meaning(row, "admission_type_id", PRIORITY),
        admit_source=ADMIT_SOURCE.get(row["admission_source_id"]),
        disposition=_meaning(row, "discharge_disposition_id", DISPOSITION),
        time_in_hospital=_number(row, "time_in_hospital"),
        number_inpatient=_number(row, "number_inpatient"),
        number_emergency=_number(row, "number_emergency"),
        number_outpatient=_number(row, "number_outpatient"),
        number_diagnoses=_number(row, "number_diagnoses"),
        num_medications=_number(row, "num_medications"),
        diagnoses=tuple(dict.fromkeys(intern(code) for code in codes if code != _MISSING)),
        drugs=tuple(name for name in DRUGS if row[name] != _NOT_GIVEN),
        medical_specialty=intern(row["medical_specialty"]),
        payer_code=intern(row["payer_code"]),
        readmitted=_meaning(row, "readmitted", _READMITTED),
    )
    if len(stay.diagnoses) > stay.number_diagnoses or len(stay.drugs) > stay.num_medications:
        raise ValueError("it names more diagnoses or drugs than it counts")
    return stay


def _meaning(row: Mapping[str, str], column: str, meanings: Mapping[str, _T]) -> _T:
    if row[column] not in meanings:
        raise ValueError(f"{column} has a value that is not known")
    return meanings[row[column]]


def _number(row: Mapping[str, str], column: str, most: int = _MOST) -> int:
    text = row[column]
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > most:
        raise ValueError(f"{column} is no whole number from 0 to {most}")
    return int(text)
