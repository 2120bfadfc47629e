"""The real Prometheus reads a worker and the API by the project's configuration, rules and dashboards."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from healthalliance.workers import WorkerProcesses
from monitoring.grafana.generate import DASHBOARDS, Dashboard
from schemas.institutions import institutions
from tests.contract.promql import queries_of, rules
from tests.integration.asking import INSTITUTION, publish, scored_by
from tests.integration.running import Trained, ready_worker, wait_until
from tests.integration.running_api import Api
from tests.integration.running_prometheus import Prometheus, running_prometheus
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = pytest.mark.stack

# Outcomes of 200 stays, or as many to compare features over, are not there within minutes.
WITHOUT_DATA = {
    "institution:healthalliance_champion_calibration:ratio",
    "institution_feature:healthalliance_feature_psi:max",
}
RECORDS = [rule.name for rule in rules() if not rule.is_alert]


@pytest.fixture(scope="module")
def own_worker(trained: Trained, no_worker: None) -> Iterator[WorkerProcesses]:
    """Have a worker that looks at outcomes and drift every second."""
    with ready_worker(trained.settings.model_copy(update={"performance_every_s": 1.0})) as one:
        yield one


@pytest.fixture(scope="module")
def prometheus(
    trained: Trained, own_worker: WorkerProcesses, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Have Prometheus read both, with events scored and rejected and requests answered while it does."""
    targets = {"worker": f"127.0.0.1:{own_worker.ports()[0]}", "api": urlsplit(api.metrics_url).netloc}
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as one:
        wait_until("both are read", lambda: len(one.query("up == 1")) == 2)
        wait_until("what waits is told", lambda: bool(one.query("healthalliance_waiting_events")))
        scored_by(trained.settings, "monitored")
        publish(trained.settings, b"no FHIR")
        with api.client(INSTITUTION) as client:
            assert client.get("/health").status_code == 200
            body = to_bytes(encounter("monitored-2", patient="monitored"))
            headers = {"Content-Type": "application/fhir+json"}
            posted = client.post(f"/api/v1/institutions/{INSTITUTION}/encounters", content=body, headers=headers)
            assert posted.status_code == 202
        yield one


def test_both_targets_are_up(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    assert {one["labels"]["job"]: one["health"] for one in targets} == {"worker": "up", "api": "up"}
    assert [one["lastError"] for one in targets] == ["", ""]


def test_all_rules_are_taken_and_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def evaluated() -> dict[str, str]:
        groups = prometheus.get("rules")["groups"]
        return {one["name"]: one["health"] for group in groups for one in group["rules"]}

    wait_until("all are evaluated", lambda: "unknown" not in evaluated().values())
    assert evaluated() == {rule.name: "ok" for rule in rules()}


@pytest.mark.parametrize("record", sorted(set(RECORDS) - WITHOUT_DATA))
def test_a_recording_rule_gives_numbers(prometheus: Prometheus, record: str) -> None:
    def numbers() -> list[float]:
        return [float(one["value"][1]) for one in prometheus.query(record)]

    wait_until(f"{record} has a number", lambda: any(number == number for number in numbers()))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_every_query_of_a_dashboard_is_answered(prometheus: Prometheus, dashboard: Dashboard) -> None:
    answers = {query: prometheus.query(query) for query in queries_of(dashboard)}
    assert sum(bool(one) for one in answers.values()) >= len(answers) / 2


def test_what_is_recorded_tells_of_every_institution_and_of_what_was_rejected(prometheus: Prometheus) -> None:
    told = {one["metric"]["institution"] for one in prometheus.query("institution:healthalliance_events:rate5m")}
    assert told == set(institutions())
    wait_until(
        "the rejected share is above 0",
        lambda: bool(
            prometheus.query(
                f'institution:healthalliance_rejected_events:ratio_increase15m{{institution="{INSTITUTION}"}} > 0'
            )
        ),
    )


def test_alerts_are_silent_while_all_is_well_but_for_an_institution_without_events(prometheus: Prometheus) -> None:
    pending = {one["metric"]["alertname"] for one in prometheus.query("ALERTS")}
    assert pending <= {"NoEvents", "EventsRejected", "CalibrationOff", "FeaturesDrifted"}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


def test_no_label_holds_anything_of_a_patient(prometheus: Prometheus) -> None:
    names = prometheus.get("labels")
    values = [value for name in names for value in prometheus.get(f"label/{name}/values")]
    assert [value for value in values if "monitored" in value or "Patient/" in value] == []
