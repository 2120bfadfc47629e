"""One local stack for all tests here and of the page, with a history, a champion model, a worker for each module."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import ensure_topics
from connectors.migrate import migrate
from connectors.settings import Settings
from connectors.simulator import simulate
from healthalliance import local_stack
from healthalliance.local_stack import Ports
from healthalliance.progress import wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.workers import WorkerProcesses
from model_training.job import train
from schemas.institutions import institutions
from tests.faults.lasting_ports import lasting_ports
from tests.integration.running import SYNTHEA, StandingWorker, Trained, data_folder, four_free_ports, new_workers
from tests.integration.running_api import Api, running_api

_PATIENTS = 300
_HISTORY = datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def stack() -> Iterator[Settings]:
    """Run Kafka, schema registry, PostgreSQL and model store, with topics and tables and nothing in them."""
    with data_folder() as settings:
        running = local_stack.up(settings, print, four_free_ports(), secured=False)
        ensure_topics(running)
        migrate(running.database_url)
        yield running


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Settings]:
    """Run a stack for a module alone, whose tests disturb others: scores that no worker made, parts that are killed."""
    with data_folder() as settings:
        running = local_stack.up(settings, print, Ports(*lasting_ports(4)), secured=False)
        ensure_topics(running)
        migrate(running.database_url)
        yield running


@pytest.fixture(scope="session")
def trained(stack: Settings) -> Trained:
    """Fold a simulated history without a model, as a first start would, and train the champion on it."""
    with new_workers(stack, history_only=True):
        events = sum(
            publish_events(stack, one, simulate(one, 1, _PATIENTS, *_HISTORY, fault_share=0.0))
            for one in institutions()
        )
        wait_until_applied(stack, 120)
    return Trained(stack, events, train(stack, 1))


@pytest.fixture(scope="session")
def standing(trained: Trained) -> Iterator[StandingWorker]:
    with StandingWorker(trained.settings) as one:
        yield one


@pytest.fixture(scope="module")
def worker(standing: StandingWorker) -> WorkerProcesses:
    """Have one worker that scores, ready; modules in a row share it."""
    return standing.started()


@pytest.fixture(scope="module")
def no_worker(standing: StandingWorker) -> None:
    """Have no worker run but those that the module starts itself."""
    standing.stop()


@pytest.fixture(scope="session")
def api(trained: Trained) -> Iterator[Api]:
    """Have the HTTP API run."""
    with running_api(trained.settings) as one:
        yield one


@pytest.fixture(scope="session")
def synthea() -> Path:
    if not SYNTHEA.exists():
        pytest.skip(f"needs {SYNTHEA.name} in shared/data beside the project")
    return SYNTHEA
