"""Make the Grafana dashboards: `python monitoring/grafana/generate.py` writes each into `dashboards/`.

Edit this file, not what it writes; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"

_SOURCE = {"type": "prometheus", "uid": "healthalliance-prometheus"}
_WIDTH, _HEIGHT, _A_ROW = 12, 8, 2
_RUNBOOKS = "docs/runbooks.md"


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    queries: legend → query; unit: one of Grafana's; alert_above: where the line of an alert is drawn; alerts: those
    whose runbooks it is read with.
    """

    title: str
    about: str
    unit: str
    queries: Mapping[str, str]
    alert_above: float | None = None
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of graphs; `by_institution` lets its readers choose institutions."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    by_institution: bool = True


def _mine(metric: str) -> str:
    return metric + '{institution=~"$institution"}'


PIPELINE = Dashboard(
    "healthalliance-pipeline",
    "HealthAlliance: pipeline",
    (
        Panel(
            "Workers that take events", "1 for each that does.", "short",
            {"{{instance}}": "healthalliance_ready"}, alerts=("WorkersAbsent", "WorkerNotReady"),
        ),
        Panel(
            "Events applied", "By institution.", "ops",
            {"{{institution}}": _mine("institution:healthalliance_events:rate5m")}, alerts=("NoEvents",),
        ),
        Panel(
            "Events that wait", "By institution.", "short",
            {"{{institution}}": _mine("institution:healthalliance_waiting_events:sum")},
            5000, ("EventsWait", "EventsStandStill"),
        ),
        Panel(
            "Age of an event when it is committed", "Of all institutions.", "s",
            {
                "99 %": "healthalliance:event_age_seconds:p99_5m",
                "50 %": "histogram_quantile(0.5, sum by (le) (rate(healthalliance_event_age_seconds_bucket[5m])))",
            },
            60, ("EventsLate",),
        ),
        Panel(
            "Time of a batch by step", "99 % take less.", "s",
            {"{{step}}": "step:healthalliance_batch_seconds:p99_5m"}, 2, ("BatchesSlow",),
        ),
        Panel(
            "Events in a batch", "Mean.", "short",
            {
                "events":
                    "sum(rate(healthalliance_batch_events_sum[5m])) / sum(rate(healthalliance_batch_events_count[5m]))"
            },
        ),
        Panel(
            "Batches tried again", "Within ten minutes, by what did not answer.", "short",
            {"{{part}}": "part:healthalliance_retries:increase10m"}, 3, ("DeliveryRetries", "DatabaseErrors"),
        ),
        Panel(
            "Events whose results were sent again", "They had been applied before.", "ops",
            {"{{institution}}": f"sum by (institution) (rate({_mine('healthalliance_republished_events_total')}[5m]))"},
        ),
        Panel(
            "Memory", "Resident, by process.", "bytes", {"{{job}} {{instance}}": "process_resident_memory_bytes"},
            alerts=("WorkerRestarts",),
        ),
        Panel(
            "Processors in use", "By process.", "short",
            {"{{job}} {{instance}}": "rate(process_cpu_seconds_total[5m])"}, alerts=("WorkerUnreachable",),
        ),
    ),
)  # fmt: skip

INSTITUTION = Dashboard(
    "healthalliance-institution",
    "HealthAlliance: institutions",
    (
        Panel(
            "Events by how they ended", "Applied each second.", "ops",
            {
                "{{institution}} {{outcome}}":
                    f"sum by (institution, outcome) (rate({_mine('healthalliance_events_total')}[5m]))"
            },
            alerts=("NoEvents",),
        ),
        Panel(
            "Rejected share", "Of the events of a quarter of an hour.", "percentunit",
            {"{{institution}}": _mine("institution:healthalliance_rejected_events:ratio_increase15m")},
            0.05, ("EventsRejected",),
        ),
        Panel(
            "Why events were rejected", "Issues within an hour.", "short",
            {
                "{{institution}} {{reason}}":
                    f"sum by (institution, reason) (increase({_mine('healthalliance_rejections_total')}[1h]))"
            },
            alerts=("EventsRejected",),
        ),
        Panel(
            "Stopped intakes", "1 while stopped.", "short",
            {"{{institution}}": f"max by (institution) ({_mine('healthalliance_intake_stopped')})"},
            1, ("IntakeStopped",),
        ),
        Panel(
            "Events that wait by partition", "On its topic.", "short",
            {
                "{{institution}} {{partition}}":
                    f"max by (institution, partition) ({_mine('healthalliance_waiting_events')})"
            },
            5000, ("EventsWait",),
        ),
        Panel(
            "Scores by band", "Written within an hour.", "short",
            {
                "{{institution}} {{band}}":
                    f"sum by (institution, band) (increase({_mine('healthalliance_scores_total')}[1h]))"
            },
        ),
    ),
)  # fmt: skip

MODEL = Dashboard(
    "healthalliance-model",
    "HealthAlliance: models",
    (
        Panel(
            "Model that scores, and challenger", "Workers that use it.", "short",
            {
                "champion {{version}}": "sum by (version) (healthalliance_model)",
                "challenger {{version}}": "sum by (version) (healthalliance_challenger)",
            },
        ),
        Panel(
            "Age of the model", "Since it was registered.", "s",
            {"version {{version}}": "model:healthalliance_model_age:seconds"}, 90 * 86400, ("ModelOld",),
        ),
        Panel(
            "Calibration", "Readmissions observed for each foretold.", "short",
            {
                "{{institution}} {{role}} {{model_version}}":
                    f"max by (institution, role, model_version) ({_mine('healthalliance_model_calibration_ratio')})"
            },
            1.25, ("CalibrationOff",),
        ),
        Panel(
            "AUROC", "Over the outcomes of 90 days.", "percentunit",
            {
                "{{institution}} {{role}} {{model_version}}":
                    f"max by (institution, role, model_version) ({_mine('healthalliance_model_auroc')})"
            },
        ),
        Panel(
            "Brier score", "Over the outcomes of 90 days.", "short",
            {
                "{{institution}} {{role}} {{model_version}}":
                    f"max by (institution, role, model_version) ({_mine('healthalliance_model_brier')})"
            },
        ),
        Panel(
            "Outcomes judged by", "Stays.", "short",
            {
                "{{institution}} {{role}} {{model_version}}":
                    f"max by (institution, role, model_version) ({_mine('healthalliance_model_outcomes')})"
            },
        ),
        Panel(
            "Features that moved most", "PSI; below 0.1 stable.", "short",
            {"{{institution}} {{feature}}": f"topk(8, {_mine('institution_feature:healthalliance_feature_psi:max')})"},
            0.25, ("FeaturesDrifted",),
        ),
        Panel(
            "Probabilities of scores", "Median by institution.", "percentunit",
            {
                "{{institution}}":
                    "histogram_quantile(0.5, sum by (institution, le) "
                    f"(rate({_mine('healthalliance_probability_bucket')}[1h])))"
            },
        ),
        Panel(
            "Models that were refused", "Looks within a quarter of an hour.", "short",
            {"{{reason}}": "sum by (reason) (increase(healthalliance_model_refusals_total[15m]))"},
            alerts=("ModelRefused",),
        ),
    ),
)  # fmt: skip

API = Dashboard(
    "healthalliance-api",
    "HealthAlliance: HTTP API",
    (
        Panel("Requests by route", "Answered each second.", "reqps", {"{{route}}": "route:http_requests:rate5m"}),
        Panel(
            "Share answered with 5xx", "Of all routes.", "percentunit",
            {"errors": "healthalliance:http_request_errors:ratio_rate5m"}, 0.05, ("ApiErrors",),
        ),
        Panel(
            "Time of a request by route", "99 % take less.", "s",
            {"{{route}}": "route:http_request_duration_seconds:p99_5m"}, 2, ("ApiSlow",),
        ),
        Panel(
            "Requests under way", "By process.", "short", {"{{instance}}": "active_connections"}, alerts=("ApiAbsent",)
        ),
        Panel(
            "Answers by status", "Answered each second.", "reqps",
            {"{{status}}": "sum by (status) (rate(http_requests_total[5m]))"},
        ),
        Panel(
            "Events received", "By what became of them.", "ops",
            {
                "{{institution}} {{outcome}}":
                    f"sum by (institution, outcome) (rate({_mine('http_intake_events_total')}[5m]))"
            },
        ),
        Panel(
            "Predictions on request", "By band.", "ops",
            {"{{institution}} {{band}}": f"sum by (institution, band) (rate({_mine('predictions_total')}[5m]))"},
        ),
        Panel(
            "Time of a prediction", "99 % take less.", "s",
            {"99 %": "histogram_quantile(0.99, sum by (le) (rate(prediction_duration_seconds_bucket[5m])))"},
        ),
        Panel(
            "Confidence", "The larger of probability and complement: median.", "percentunit",
            {"50 %": "histogram_quantile(0.5, sum by (le) (rate(model_confidence_score_bucket[5m])))"},
        ),
    ),
)  # fmt: skip

DASHBOARDS = (PIPELINE, INSTITUTION, MODEL, API)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["healthalliance"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_INSTITUTION] if dashboard.by_institution else []},
        "links": [
            {"type": "dashboards", "title": "HealthAlliance", "tags": ["healthalliance"], "asDropdown": True}
        ],
        "panels": [_panel(number, one) for number, one in enumerate(dashboard.panels)],
    }  # fmt: skip


_INSTITUTION = {
    "name": "institution",
    "type": "query",
    "datasource": _SOURCE,
    "query": "label_values(healthalliance_intake_stopped, institution)",
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "refresh": 2,
}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": "\n\n".join([panel.about, *_what_to_do(panel.alerts)]),
        "datasource": _SOURCE,
        "gridPos": {
            "x": _WIDTH * (number % _A_ROW),
            "y": _HEIGHT * (number // _A_ROW),
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": _thresholds(panel.alert_above),
                "custom": {"thresholdsStyle": {"mode": "off" if panel.alert_above is None else "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _what_to_do(alerts: Iterable[str]) -> list[str]:
    return [f"{alert}: {_RUNBOOKS}#{alert.lower()}" for alert in alerts]


def _thresholds(alert_above: float | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if alert_above is not None:
        steps.append({"color": "red", "value": alert_above})
    return {"mode": "absolute", "steps": steps}


def text(dashboard: Dashboard) -> str:
    """Return a dashboard's file."""
    return json.dumps(document(dashboard), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all dashboards."""
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard), "utf-8")


if __name__ == "__main__":
    main()
