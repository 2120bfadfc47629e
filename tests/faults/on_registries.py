"""Faults of the registries, of schemas and of models, and champions that are swapped under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from connectors.models.mlflow_quietly import open_store
from connectors.settings import Settings
from healthalliance.local_stack import Part
from healthalliance.local_stack.ports import free_port
from healthalliance.progress import fetch
from tests.faults.load import train_champion
from tests.faults.trial import Trial, has_ended, quiet_stack

_AWAY_S = 600.0
_START_S = 90.0
_ADOPTED_S = 60.0


class ModelServer:
    """MLflow's server, over the store and the files that the local stack would use itself."""

    def __init__(self, data_dir: Path) -> None:
        self._folder, self._port = data_dir / Part.MLFLOW, free_port(())
        self._log = data_dir / "logs" / "mlflow-server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "--backend-store-uri": f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination": str(self._folder / "artifacts"),
            "--host": "127.0.0.1",
            "--port": str(self._port),
            "--workers": "1",
        }
        command = [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=2)
                return
            time.sleep(0.2)
        raise TimeoutError(f"MLflow's server does not answer (see {self._log})")

    def kill(self) -> None:
        """Kill it and the processes it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def stack_with_model_server(settings: Settings) -> Iterator[Settings]:
    """Run a fresh local stack whose models come from MLflow's server."""
    with quiet_stack(settings) as running, ExitStack() as at_end:
        server = _SERVERS[running.data_dir] = ModelServer(running.data_dir)
        at_end.callback(server.kill)
        server.start()
        yield running.model_copy(update={"mlflow_tracking_uri": server.address})


_SERVERS: dict[Path, ModelServer] = {}  # by data folder


def swap_champions(trial: Trial) -> None:
    """Make one new champion after the other; half-way both registries are away, and a worker dies meanwhile.

    Where models come from a file, no server can be away: then it is the schema registry only.
    """
    for number in trial.moments():
        _swap(trial, number)
        if number == trial.strikes // 2:
            _be_away(trial)


def every_champion_scored(trial: Trial) -> dict[str, int]:
    """Return how many champions have scored nothing."""
    scored = {row["model_version"] for row in fetch(trial.settings, "SELECT DISTINCT model_version FROM risk_scores")}
    trial.figures["champions"] = len(scored)
    idle = set(trial.notes["versions"]) - scored
    beside = fetch(trial.settings, "SELECT count(*) AS number FROM challenger_scores")[0]["number"]
    trial.figures["challenger_scores"] = beside
    found = {"champions that never scored": len(idle), "challengers that never scored": int(beside == 0)}
    return {name: number for name, number in found.items() if number}


def _swap(trial: Trial, number: int) -> None:
    version = train_champion(trial.settings, number + 2)
    trial.notes.setdefault("versions", []).append(version)
    with open_store(trial.settings) as client:
        for one in {version, "1"}:  # the oracle asks for the version that a row names
            client.set_registered_model_alias(trial.settings.model_name, f"version-{one}", one)
        [before] = trial.notes["versions"][-2:-1] or ["1"]
        client.set_registered_model_alias(trial.settings.model_name, trial.settings.model_challenger_alias, before)
    trial.measure("adoption_s", trial.wait_until(lambda: _has_scored(trial, version), _ADOPTED_S, every_s=0.5))
    trial.wait_until(lambda: _has_scored(trial, before, "challenger_scores"), _ADOPTED_S, every_s=0.5)


def _has_scored(trial: Trial, version: str, table: str = "risk_scores") -> bool:
    query = f"SELECT EXISTS (SELECT FROM {table} WHERE model_version = $1) AS found"
    return bool(fetch(trial.settings, query, version)[0]["found"])


def _be_away(trial: Trial) -> None:
    server = _SERVERS.get(trial.settings.data_dir)
    pid = trial.pid_of(Part.REGISTRY)
    os.kill(pid, signal.SIGKILL)
    if server is not None:
        server.kill()
    trial.wait_until(lambda: has_ended(pid), 30)
    away_s = _AWAY_S * trial.scale
    time.sleep(away_s / 2)
    os.kill(trial.rng.choice(trial.living()), signal.SIGKILL)
    time.sleep(away_s / 2)
    trial.require_alive()
    trial.start_parts()
    if server is not None:
        server.start()
