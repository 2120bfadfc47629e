"""What a worker tells about itself: whether it lives, whether it consumes, what it has done."""

from __future__ import annotations

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from connectors.models import load_champion
from healthalliance.workers import WorkerProcesses
from schemas.institutions import institutions
from streams import metrics
from tests.integration.asking import INSTITUTION, ask, publish, samples, value_of
from tests.integration.command_line import run
from tests.integration.reading import latest_risk
from tests.integration.running import Trained, wait_until
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = pytest.mark.stack


def test_a_consuming_worker_is_alive_and_ready(trained: Trained, worker: WorkerProcesses) -> None:
    assert (ask(worker, "/healthz").code, ask(worker, "/healthz").document) == (200, {"status": "alive"})
    assert (ask(worker, "/readyz").code, ask(worker, "/readyz").document) == (200, {"status": "ready"})
    assert value_of(worker, "healthalliance_ready") == 1


def test_every_declared_metric_is_exposed(trained: Trained, worker: WorkerProcesses) -> None:
    declared = {family.name for family in metrics.REGISTRY.collect()}
    exposed = {family.name for family in text_string_to_metric_families(ask(worker, "/metrics").text)}
    assert len(declared) >= 10
    assert declared <= exposed


def test_the_metrics_count_events_scores_and_rejections(trained: Trained, worker: WorkerProcesses) -> None:
    before = samples(worker)
    publish(trained.settings, to_bytes(encounter("health-counted", patient="health")), b"no FHIR")
    [row] = latest_risk(trained.settings, INSTITUTION, ["health-counted"]).values()
    # Counted after the commit that the progress rows tell of.
    wait_until(
        "the rejection is counted",
        lambda: (
            value_of(worker, "healthalliance_events_total", institution=INSTITUTION, outcome="rejected")
            > before.get(_key("healthalliance_events_total", outcome="rejected"), 0)
        ),
    )
    after = samples(worker)
    changed = {key: value - before.get(key, 0) for key, value in after.items() if key[0] in _COUNTERS}
    assert {key: value for key, value in changed.items() if value} == {
        _key("healthalliance_events_total", outcome="scored"): 1,
        _key("healthalliance_events_total", outcome="rejected"): 1,
        _key("healthalliance_scores_total", band=row["band"]): 1,
        _key("healthalliance_rejections_total", reason="not-json"): 1,
    }


def test_a_worker_tells_what_waits_in_each_of_its_partitions(trained: Trained, worker: WorkerProcesses) -> None:
    def waiting() -> dict[str, float]:
        return {
            f"{labels['institution']} {labels['partition']}": value
            for (name, pairs), value in samples(worker).items()
            if name == "healthalliance_waiting_events"
            for labels in [dict(pairs)]
        }

    partitions = {f"{id_} {n}" for id_ in institutions() for n in range(trained.settings.topic_partitions)}
    wait_until("all partitions are looked at, and nothing waits", lambda: waiting() == dict.fromkeys(partitions, 0.0))


def test_a_worker_tells_when_its_model_was_registered(trained: Trained, worker: WorkerProcesses) -> None:
    model = load_champion(trained.settings)
    labels = {"name": model.name, "version": model.version}
    assert value_of(worker, "healthalliance_model_registered_timestamp_seconds", **labels) == model.registered_at


_COUNTERS = ("healthalliance_events_total", "healthalliance_scores_total", "healthalliance_rejections_total")


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"institution": INSTITUTION, **labels}.items())


def test_no_metric_names_a_patient_or_an_encounter(trained: Trained, worker: WorkerProcesses) -> None:
    publish(trained.settings, to_bytes(encounter("confidential-e", patient="confidential")))
    text = ask(worker, "/metrics").text
    assert f'institution="{INSTITUTION}"' in text
    assert [word for word in ("confidential", "Patient/", "Encounter/") if word in text] == []


def test_a_worker_listens_on_loopback_only(trained: Trained, worker: WorkerProcesses) -> None:
    connections = psutil.Process(worker.pids()[0]).net_connections(kind="inet")
    listening = {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", worker.ports()[0])}


def test_a_worker_whose_port_is_taken_ends_with_a_clear_sentence(trained: Trained, worker: WorkerProcesses) -> None:
    ended = run(trained.settings, "worker", "--metrics-port", worker.ports()[0])
    assert ended.code == 3
    [sentence] = ended.stderr.splitlines()
    assert sentence.startswith(f"healthalliance: METRICS_PORT {worker.ports()[0]} cannot be used: ")
