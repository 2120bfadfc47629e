"""Local stacks and workers of the tests' own: free ports, a data folder that goes at the end."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from connectors.models.mlflow_quietly import open_store
from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.demo import wait_until_ready
from healthalliance.local_stack import Part, Ports
from healthalliance.local_stack.ports import free_port
from healthalliance.local_stack.state import ensure_model_keys, write_private
from healthalliance.progress import fetch
from healthalliance.workers import WorkerOptions, WorkerProcesses
from model_training.job import TrainingResult

_SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
SYNTHEA = _SHARED_DATA / "synthea-dev.tar.xz"
DIABETES130 = _SHARED_DATA / "diabetes130-dev.csv.gz"


@dataclass(frozen=True, slots=True)
class Trained:
    """A running stack whose feature topics hold a history and whose champion was trained on it."""

    settings: Settings = field(repr=False)
    history_events: int
    training: TrainingResult


@contextmanager
def data_folder() -> Iterator[Settings]:
    """Make settings with a data folder of their own and nothing else: no variable of the caller's reaches them."""
    with TemporaryDirectory(prefix="healthalliance-test-", ignore_cleanup_errors=True) as folder:
        known_pseudonym_key(Path(folder))
        ensure_model_keys(Path(folder))  # where there is a store, none are made
        models = Path(folder) / Part.MLFLOW
        models.mkdir()
        (models / "mlflow.db").write_bytes(_empty_model_store())
        settings = Settings.model_construct(
            data_dir=Path(folder),
            rejected_share_limit=1.0,
            train_search_budget_s=0.0,
            alert_internal_receivers="127.0.0.1",
        )
        try:
            yield settings
        finally:
            local_stack.down(settings)


def known_pseudonym_key(folder: Path) -> None:
    """Put the same key into each data folder, so that each training gives the same model.

    Pseudonyms decide who is in which part of a training: by chance, one run in 500 got a model that tells nobody apart.
    """
    write_private(folder / "pseudonym.key", "known to every reader of these tests\n")


@cache
def _empty_model_store() -> bytes:
    """Make MLflow's tables once: it takes a second of all its migrations each time."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        with open_store(Settings.model_construct(mlflow_tracking_uri=f"sqlite:///{file}")):
            return file.read_bytes()


@contextmanager
def database(settings: Settings, name: str, *, copied: bool = False) -> Iterator[Settings]:
    """Make a database beside the settings' one, empty or a copy of that, and drop it at the end."""
    url = urlsplit(settings.database_url)
    outside = settings.model_copy(update={"database_url": url._replace(path="/template1").geturl()})
    template, own = url.path.removeprefix("/"), url._replace(path=f"/{name}").geturl()
    if copied:
        # It is copied while nobody uses it; the API, which other modules' tests started, connects again by itself.
        fetch(outside, f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')
        fetch(outside, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", template)
        fetch(outside, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        fetch(outside, f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
    else:
        fetch(settings, f'CREATE DATABASE "{name}"')
    try:
        yield settings.model_copy(update={"database_url": own})
    finally:
        fetch(settings, f'DROP DATABASE "{name}" WITH (FORCE)')


def four_free_ports() -> Ports:
    chosen: list[int] = []
    for _ in range(4):
        chosen.append(free_port((), avoid=chosen))
    return Ports(*chosen)


def new_workers(settings: Settings, *, history_only: bool = False) -> WorkerProcesses:
    """Make one worker's process, not started yet, on a port of its own."""
    settings = settings.model_copy(update={"metrics_port": free_port(())})
    return WorkerProcesses(settings, WorkerOptions(1, history_only, settings.data_dir / "logs" / "worker.log"))


@contextmanager
def ready_worker(settings: Settings, *, history_only: bool = False) -> Iterator[WorkerProcesses]:
    with new_workers(settings, history_only=history_only) as workers:
        wait_until_ready(workers)
        yield workers


class StandingWorker:
    """One worker for many modules: a start and a stop take seconds. Only one runs, for two share the partitions.

    It is started again where it ends by itself, as everywhere; a failure's report says why it did.
    """

    def __init__(self, settings: Settings) -> None:
        # A worker that stands still ends itself after twice this time, before a test gives up.
        self._settings = settings.model_copy(update={"retry_timeout_s": 20.0})
        self._open = ExitStack()
        self._workers: WorkerProcesses | None = None

    def __enter__(self) -> StandingWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def started(self) -> WorkerProcesses:
        """Return the worker, which is started and ready if it was not."""
        if self._workers is None:
            self._workers = self._open.enter_context(ready_worker(self._settings))
            self._open.enter_context(_watched(self._workers))
        return self._workers

    def stop(self) -> None:
        """Stop the worker if it runs."""
        if self._workers is not None and self._workers.restarts:
            warnings.warn(f"The standing worker ended {self._workers.restarts} times by itself.", stacklevel=2)
        self._workers = None
        self._open.close()


@contextmanager
def _watched(workers: WorkerProcesses) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            workers.watch()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = 90.0) -> None:
    """Wait until something is so; fail with what was waited for when time is up."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.02)
