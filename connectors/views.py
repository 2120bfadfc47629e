"""What analysts may read: the views of roles `analyst` and `aggregate_analyst`, with what each column says.

Migrations make the views; tests compare names and types with a real database. The data dictionary in
docs/analysts.md is made from here:

python -m connectors.views write    writes it between the page's markers
python -m connectors.views check    fails where the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from connectors.tables import challenger_scores, feature_drift_readings, risk_scores, score_outcomes
from schemas.features import FEATURE_NAMES, Features

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_PAGE = Path(__file__).parents[1] / "docs" / "analysts.md"
_BEGIN, _END = "<!-- data dictionary: begin -->", "<!-- data dictionary: end -->"

_TIME, _NUMBER, _COUNT = "timestamp with time zone", "double precision", "bigint"


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column: its name, PostgreSQL's name of its type, what it says."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class View:
    """A view: its name, what one row is, its columns in order."""

    name: str
    comment: str
    columns: tuple[ViewColumn, ...]

    @property
    def is_aggregate(self) -> bool:
        """Tell whether no row is about one encounter, so that role `aggregate_analyst` reads it too."""
        return all(one.name != "encounter_pseudonym" for one in self.columns)


def _of(table: Table, *names: str) -> Iterator[ViewColumn]:
    """Take columns over from a table, comments included."""
    for name in names:
        column = table.columns[name]
        assert column.comment, f"{table.name}.{name} has no comment"
        yield ViewColumn(name, str(column.type.compile(dialect=_DIALECT)).lower(), column.comment)


def _features() -> Iterator[ViewColumn]:
    """Make a column of each feature, with the meaning that `Features` gives it."""
    meanings = dict(line.strip().split(": ", 1) for line in str(Features.__doc__).splitlines() if ": " in line)
    for name in FEATURE_NAMES:
        yield ViewColumn(name, _NUMBER, meanings[name].removesuffix("."))


_MODEL = tuple(_of(risk_scores, "model_name", "model_version"))
_INSTITUTION = tuple(_of(risk_scores, "institution"))
_DAY = ViewColumn("day", "date", "UTC; of the arrival of the event")
_ROLE = ViewColumn("role", "text", "champion or challenger")
_DRIFT = (
    ViewColumn("measured_at", _TIME, "the day (UTC) on which a worker measured it"),
    ViewColumn("stays", "integer", "the last discharged stays that it is measured over, in tens"),
    ViewColumn("psi", _NUMBER, f"{next(_of(feature_drift_readings, 'psi')).comment}; to two places"),
)

VIEWS: tuple[View, ...] = (
    View(
        "latest_risk",
        "the standing score of an encounter",
        (
            *_of(risk_scores, "institution", "encounter_pseudonym", "patient_pseudonym", "encounter_version"),
            *_of(risk_scores, "inpatient", "as_of", "received_at", "scored_at", "probability", "band", "baseline"),
            *_of(risk_scores, "contributions"),
            *_features(),
            *_of(risk_scores, "feature_set", "model_name", "model_version", "record_id"),
        ),
    ),
    View(
        "risk_history",
        "a version of an encounter's score, beside the version that it replaced",
        (
            *_of(risk_scores, "institution", "encounter_pseudonym", "patient_pseudonym"),
            ViewColumn("version", _COUNT, "1 for the encounter's first score, and so on"),
            *_of(risk_scores, "record_id", "status", "reason", "encounter_version", "inpatient", "as_of"),
            *_of(risk_scores, "received_at", "scored_at", "probability", "band"),
            ViewColumn("probability_change", _NUMBER, "its probability less that of the version before"),
            ViewColumn("previous_probability", _NUMBER, "of the version before"),
            ViewColumn("previous_band", "text", "of the version before"),
            ViewColumn("previous_received_at", _TIME, "of the version before"),
            *_of(risk_scores, "baseline", "contributions"),
            *_features(),
            *_of(risk_scores, "feature_set", "model_name", "model_version"),
            *_of(risk_scores, "supersedes", "superseded_by", "superseded_at"),
        ),
    ),
    View(
        "risk_outcomes",
        "a discharged inpatient stay: what became of it, and the score that stood at its discharge",
        (
            *_of(risk_scores, "institution", "encounter_pseudonym", "patient_pseudonym"),
            *_of(score_outcomes, "discharged_at"),
            ViewColumn("outcome", "text", "pending, readmitted, not-readmitted or censored"),
            *_of(score_outcomes, "because", "readmitted_at"),
            ViewColumn("matured", "boolean", "whether its 30 days are over"),
            ViewColumn("known_until", _TIME, "the latest time that the institution's events tell of"),
            *_of(score_outcomes, "record_id", "received_at"),
            *_of(risk_scores, "probability", "band", "model_name", "model_version"),
            ViewColumn("challenger_probability", _NUMBER, "the challenger's for the same score"),
            ViewColumn("challenger_band", "text", next(_of(challenger_scores, "band")).comment),
            ViewColumn("challenger_name", "text", "the challenger's registered model"),
            ViewColumn("challenger_version", "text", "its version"),
        ),
    ),
    View(
        "institution_daily_risk",
        "an institution's day: the standing scores whose event arrived then",
        (
            *_INSTITUTION,
            _DAY,
            ViewColumn("encounters", _COUNT, "with a standing score, with noise; days with fewer than 10 are left out"),
            ViewColumn("inpatient_stays", _COUNT, "of these, with noise; null: fewer than 10, or fewer than 10 others"),
            ViewColumn("high", _COUNT, "of these, by band, with noise; all three are null where one has fewer than 10"),
            ViewColumn("medium", _COUNT, "see high"),
            ViewColumn("low", _COUNT, "see high"),
            ViewColumn("mean_probability", _NUMBER, "with noise"),
        ),
    ),
    View(
        "model_performance",
        "an institution's model over the last 90 days of outcomes",
        (
            *_INSTITUTION,
            *_MODEL,
            _ROLE,
            ViewColumn("outcomes", _COUNT, "stays that are judged, with noise; models with fewer than 10 are left out"),
            ViewColumn("readmitted", _COUNT, "of these, with noise; null: fewer than 10, or fewer than 10 others"),
            ViewColumn("observed_share", _NUMBER, "share readmitted; null as readmitted"),
            ViewColumn("mean_probability", _NUMBER, "with noise"),
            ViewColumn("calibration_ratio", _NUMBER, "observed share by mean probability; null as readmitted"),
            ViewColumn("brier", _NUMBER, "mean squared error, with noise; null as readmitted"),
            ViewColumn("auroc", _NUMBER, "area under the ROC curve, with noise; null as readmitted"),
            ViewColumn("first_discharge", _TIME, "the week, from Monday (UTC), of the stays that are judged"),
            ViewColumn("last_discharge", _TIME, "the week, from Monday (UTC), of the stays that are judged"),
        ),
    ),
    View(
        "model_calibration",
        "a group of the same stays, by rising probability: 10 equal groups, or 5, 3 or 2 where fewer than 10 "
        "of one were readmitted or not; no row where even two are too many",
        (
            *_INSTITUTION,
            *_MODEL,
            _ROLE,
            ViewColumn("risk_group", "integer", "1 for the lowest probabilities"),
            ViewColumn("outcomes", _COUNT, "stays in the group, with noise"),
            ViewColumn("readmitted", _COUNT, "of these, with noise"),
            ViewColumn("mean_probability", _NUMBER, "of the group, with noise"),
            ViewColumn("observed_share", _NUMBER, "share readmitted"),
        ),
    ),
    View(
        "feature_drift",
        "the newest reading of how far a feature of an institution has moved since training",
        (*_INSTITUTION, *_of(feature_drift_readings, "feature", "model_name", "model_version"), *_DRIFT),
    ),
    View(
        "feature_drift_daily",
        "a day's last such reading",
        (*_INSTITUTION, *_of(feature_drift_readings, "feature", "model_name", "model_version", "day"), *_DRIFT),
    ),
    View(
        "institution_daily_rejections",
        "a reason for which an institution's events of a day were rejected",
        (
            *_INSTITUTION,
            _DAY,
            ViewColumn("reason", "text", "the first issue's reason code"),
            ViewColumn("rejected", _COUNT, "events, with noise; fewer than 10 are left out"),
        ),
    ),
    View(
        "institution_events",
        "an institution: how all its events ended, each number with noise and rounded to the nearest ten",
        (
            *_INSTITUTION,
            ViewColumn("scored", _COUNT, "events that led to a score"),
            ViewColumn("updated", _COUNT, "events that changed a history only"),
            ViewColumn("unchanged", _COUNT, "events that told nothing new"),
            ViewColumn("retracted", _COUNT, "events that took something back"),
            ViewColumn("rejected", _COUNT, "events with any issue"),
            ViewColumn("rejected_share", _NUMBER, "of all events, from the rounded numbers"),
            ViewColumn("known_until", _TIME, "the day (UTC) of the latest time that its events tell of"),
        ),
    ),
)  # fmt: skip


def dictionary(views: Iterable[View] = VIEWS) -> str:
    """Write the views as Markdown: a heading, a sentence and a table each."""
    return "\n".join(_described(one) for one in views)


def _described(view: View) -> str:
    rows = [f"| `{one.name}` | {one.type} | {one.comment} |" for one in view.columns]
    head = [f"#### `{view.name}`", "", f"One row is {view.comment}.", "", "| column | type | says |", "|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def written_into(page: str) -> str:
    """Return the page with the dictionary between its markers; raise ValueError where a marker is missing."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page lacks the marker {_END if begin else _BEGIN}")
    return f"{before}{begin}\n\n{dictionary()}\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Write the page, or tell by the exit code whether it is as it would be written."""
    page = _PAGE.read_text("utf-8")
    if arguments == ["check"]:
        return int(page != written_into(page))
    _PAGE.write_text(written_into(page), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
