"""The Airflow DAG, run by `airflow dags test` in an environment of its own, with the real command on a real stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.models.versions import versions
from connectors.settings import Settings, settings_environment
from schemas.errors import TrainingUnderWayError
from tests.contract.source_code import ROOT
from tests.integration.running import Trained

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.usefixtures("no_worker"), pytest.mark.timeout(600)]

_REQUIREMENTS = ROOT / "tests" / "integration" / "airflow-requirements.txt"

RunDag = Callable[..., str]


def airflow() -> Path:
    [version] = re.findall(r"^apache-airflow==(.+)$", _REQUIREMENTS.read_text("utf-8"), re.MULTILINE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "healthalliance" / f"airflow-{version}" / "bin" / "airflow"
    if not program.exists():
        pytest.skip("Airflow is not installed: `make airflow` does it and runs this")
    return program


@pytest.fixture(scope="module")
def run_dag(tmp_path_factory: pytest.TempPathFactory) -> RunDag:
    """Run the DAG with a command in place of `healthalliance`, and return what Airflow printed."""
    program, home = airflow(), tmp_path_factory.mktemp("airflow")
    environment = {
        **{name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ},
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "model_training" / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def run(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [program, *arguments],
            env=environment | variables,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout + done.stderr

    run("db", "migrate")
    return lambda **variables: run("dags", "test", "healthalliance_training", **variables)


def ended(printed: str) -> tuple[str, ...]:
    """Return the states that the task came to, as Airflow told them."""
    return tuple(re.findall(r"new_state=(\w+)", printed))


def test_a_run_of_the_dag_trains_a_model(run_dag: RunDag, trained: Trained) -> None:
    own: Settings = trained.settings.model_copy(update={"model_name": "by-airflow", "train_search_budget_s": 0.0})
    printed = run_dag(
        **settings_environment(own),
        HEALTHALLIANCE_DIR=str(ROOT),
        HEALTHALLIANCE_COMMAND=f"{sys.executable} -m healthalliance",
    )
    assert ended(printed) == ("success",), printed[-5000:]
    assert [one.version for one in versions(own)] == ["1"]


def test_a_run_while_another_one_is_going_on_is_skipped(run_dag: RunDag, tmp_path: Path) -> None:
    command = tmp_path / "healthalliance"
    command.write_text(f"#!/bin/sh\nexit {TrainingUnderWayError.exit_code}\n")
    command.chmod(0o755)
    printed = run_dag(HEALTHALLIANCE_COMMAND=str(command))
    assert ended(printed) == ("skipped",), printed[-5000:]
