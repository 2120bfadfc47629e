"""A model's report: one tree of records, written as JSON and as one HTML page; pure.

The JSON document is the tree as it stands: a record is an object with its fields' names, a time is ISO 8601 in UTC,
a probability or share lies between 0 and 1, a group that is too small has `assessment` null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from model_training.baselines import Baseline
from model_training.charts import by_group, for_everybody, reliance
from model_training.drawing import Picture
from model_training.evaluation import Assessment, Group, Importance, Kind
from model_training.gate import Verdict
from model_training.pages import render

# Grows when a field changes its meaning or goes.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model file; onnx_difference: its largest difference from the forest's raw probability on the test part."""

    name: str
    digest: str
    feature_set: int
    features: tuple[str, ...]
    calibration: str
    threshold_medium: float
    threshold_high: float
    onnx_difference: float


@dataclass(frozen=True, slots=True)
class PartitionRead:
    """A partition of a feature topic and the offset before which it was read."""

    topic: str
    topic_id: str
    partition: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the model was trained on.

    snapshot: SHA-256 of the partitions' ends. excluded: encounters that are no index stays, by rule. note: what whoever
    trained it says of the data.
    """

    snapshot: str
    ends: tuple[PartitionRead, ...]
    encounters: int
    excluded: Mapping[str, int]
    note: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the split: fit, calibrate or test."""

    name: str
    stays: int
    readmissions: int
    persons: int
    first_discharge: str
    last_discharge: str


@dataclass(frozen=True, slots=True)
class Card:
    """What the model is for, for whom, and what it cannot do."""

    intended_use: str
    users: str
    limits: tuple[str, ...]


CARD = Card(
    intended_use=(
        "Telling, at discharge and during an inpatient stay, how likely the patient is admitted again, unplanned and "
        "to the same institution, within 30 days of discharge; so that follow-up goes where it helps most."
    ),
    users=(
        "Hospitals' alerting systems and the discharge teams behind them, who see a probability, a band and the "
        "features that moved it, and decide themselves; analysts, under pseudonyms."
    ),
    limits=(
        "It is not a medical device and must not decide on care by itself.",
        "Readmissions at other institutions are not seen: somebody who goes elsewhere counts as not readmitted.",
        "How ill a patient is, it sees only through the few features below, and these only as far as they were coded.",
        "A feature that raises the probability need not cause readmissions, and changing it need not prevent one.",
        "It learned from stays that ended alive and were followed for 30 days, and says nothing of others.",
        "Practice and coding change: measures hold for the time and the institutions of the test part only.",
    ),
)


@dataclass(frozen=True, slots=True)
class Report:
    """All that is to be known of a model.

    groups: everybody first, then institutions, genders, age groups. search: what each shape of tree that was tried came
    to. verdict: the gate's. environment: versions of the libraries that made it.
    """

    made_at: str
    model: ModelFacts
    data: DataFacts
    parts: tuple[Part, ...]
    parameters: Mapping[str, str | int | float]
    search: tuple[Mapping[str, str | int | float], ...]
    baselines: tuple[Baseline, ...]
    groups: tuple[Group, ...]
    importance: tuple[Importance, ...]
    verdict: Verdict
    environment: Mapping[str, str]
    card: Card = CARD
    format: int = field(default=FORMAT)

    @property
    def everybody(self) -> Assessment:
        """The assessment of all held-out stays; there is no report without one."""
        assessment = self.groups[0].assessment
        assert assessment is not None
        return assessment


def as_json(report: Report) -> str:
    """Write a report as a JSON document."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def as_html(report: Report) -> str:
    """Write a report as one page that needs nothing else: pictures inside, no scripts, no links outside."""
    return render(
        "model_training/report.html.jinja",
        report=report,
        everybody=report.everybody,
        overview=for_everybody(report.groups[0]),
        reliance=reliance(report.importance),
        kinds=[(kind, some, _pictures(some)) for kind in Kind if kind is not Kind.ALL and (some := _of(report, kind))],
    )


def _of(report: Report, kind: Kind) -> list[Group]:
    return [group for group in report.groups if group.kind is kind]


def _pictures(groups: Sequence[Group]) -> tuple[Picture, ...]:
    return by_group(groups) if any(group.assessment for group in groups) else ()
