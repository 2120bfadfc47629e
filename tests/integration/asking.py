"""Ask a worker how it is, and have it score an encounter."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import latest_risk
from tests.unit.schemas.fhir_events import encounter, to_bytes

INSTITUTION = "dkfz"


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer; code 0 where it does not answer yet."""

    code: int
    text: str

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


def ask(workers: WorkerProcesses, path: str) -> Answer:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{workers.ports()[0]}{path}", timeout=5) as response:
            return Answer(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode())
    except OSError:
        return Answer(0, "")


def samples(workers: WorkerProcesses) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read the worker's metrics: (name, labels) → value."""
    families = text_string_to_metric_families(ask(workers, "/metrics").text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value_of(workers: WorkerProcesses, metric: str, /, **labels: str) -> float:
    return samples(workers).get((metric, frozenset(labels.items())), 0.0)


def publish(settings: Settings, *values: bytes) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, INSTITUTION)
    Publisher(settings).publish(OutMessage(topic, b"Patient/health", one) for one in values)
    wait_until_applied(settings, 120)


def scored_by(settings: Settings, encounter_id: str) -> str:
    publish(settings, to_bytes(encounter(encounter_id, patient="health")))
    return str(latest_risk(settings, INSTITUTION, [encounter_id])[encounter_id]["model_version"])


def is_running(workers: WorkerProcesses) -> bool:
    return all(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in workers.pids())
