"""Secrets stay in files and environments: no process shows one in its arguments, no log and no answer tells one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from healthalliance.workers import WorkerProcesses
from tests.integration.asking import ask, publish
from tests.integration.command_line import run
from tests.integration.running import Trained
from tests.integration.running_api import Api
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def secrets(trained: Trained, api: Api) -> Mapping[str, str]:
    password = urlsplit(trained.settings.database_url).password
    assert password
    return {
        "the database's password": password,
        "the pseudonym key": trained.settings.pseudonym_key.get_secret_value(),
        **{f"{institution}'s API key": key for institution, key in api.keys.items()},
    }


def told(secrets: Mapping[str, str], text: str) -> list[str]:
    return [name for name, value in secrets.items() if value in text]


def test_a_secret_is_one(secrets: Mapping[str, str]) -> None:
    assert all(len(value) >= 24 for value in secrets.values())
    assert told(secrets, f"at {secrets['the pseudonym key']} ") == ["the pseudonym key"]  # what follows can fail


def test_no_process_shows_a_secret_in_its_arguments(
    trained: Trained, worker: WorkerProcesses, api: Api, secrets: Mapping[str, str]
) -> None:
    shown = {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    assert {*worker.pids(), api.pid} <= shown.keys()
    assert sum(str(trained.settings.data_dir) in one for one in shown.values()) >= 3  # Kafka, registry, PostgreSQL
    assert told(secrets, "\n".join(shown.values())) == []


def test_no_log_tells_a_secret(trained: Trained, worker: WorkerProcesses, api: Api, secrets: Mapping[str, str]) -> None:
    publish(trained.settings, to_bytes(encounter("secret", patient="secret")), b"no FHIR")
    with api.client("dkfz") as client:
        client.headers["Authorization"] += "x"  # a wrong key, which begins as the right one
        assert client.get("/api/v1/institutions").status_code == 401
    logs = [path for path in Path(trained.settings.data_dir).rglob("*.log") if path.is_file()]
    assert {"worker.log", "api.log"} <= {path.name for path in logs}
    assert told(secrets, "\n".join(path.read_text("utf-8", "replace") for path in logs)) == []


def test_neither_commands_nor_the_workers_server_tell_a_secret(
    trained: Trained, worker: WorkerProcesses, secrets: Mapping[str, str]
) -> None:
    for command in (("status",), ("status", "--json"), ("doctor",)):
        ended = run(trained.settings, *command)
        assert told(secrets, ended.stdout + ended.stderr) == []
    assert told(secrets, "".join(ask(worker, path).text for path in ("/metrics", "/readyz", "/healthz"))) == []


def test_an_error_names_the_variable_and_not_its_value(trained: Trained, secrets: Mapping[str, str]) -> None:
    wrong = trained.settings.database_url.replace("postgresql://", "postgresql://other-")
    ended = run(trained.settings, "report", "--since", "1d", DATABASE_URL=wrong)
    assert ended.code != 0
    assert told(secrets, ended.stdout + ended.stderr) == []
    ended = run(trained.settings, "worker", KAFKA_REPLICATION_FACTOR=secrets["the pseudonym key"])
    assert "KAFKA_REPLICATION_FACTOR" in ended.stderr
    assert told(secrets, ended.stdout + ended.stderr) == []
