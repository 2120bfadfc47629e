"""A person trains, compares, promotes and rolls back; runs do not meet."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.models.versions import versions
from connectors.settings import Settings, settings_environment
from connectors.training_lock import only_training_run
from healthalliance import cli
from schemas.audit import EVERYBODY, Action
from schemas.errors import NoModelError, PromotionRefusedError, TrainingUnderWayError
from tests.integration.noting import noting
from tests.integration.running import Trained, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

Ask = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """A `train --every` that was stopped: how it ended and what it printed."""

    code: int
    documents: list[dict[str, Any]]
    stderr: str


@pytest.fixture(scope="module")
def own(trained: Trained) -> Settings:
    """Have a registered model of this module's own beside the others' champion."""
    return trained.settings.model_copy(update={"model_name": "tried", "train_search_budget_s": 0.0})


@pytest.fixture(scope="module")
def ask(own: Settings) -> Ask:
    """Run a command in this process and return its one JSON document."""
    runner = CliRunner(env=dict(settings_environment(own)))

    def run(*arguments: object) -> Any:
        result = runner.invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="module")
def first(ask: Ask, own: Settings) -> Any:
    with noting(own, (Action.TRAIN, EVERYBODY)):
        return ask("train", "--note", "Simulated.")


@pytest.fixture(scope="module")
def again(own: Settings, first: Any) -> Ran:
    """Train every hour as a process; stop it as a service manager would once the first run has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "healthalliance", "train", "--seed", "2", "--every", "1h", "--json"],
        env=dict(settings_environment(own)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until("a second version is registered", lambda: len(versions(own)) == 2, 120)
        wait_until("it has its alias", lambda: bool(versions(own)[0].aliases), 30)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest, told = process.communicate(timeout=20)
    finally:
        process.kill()
    return Ran(process.returncode, [json.loads(one) for one in (line + rest).splitlines()], told)


def test_a_first_model_becomes_champion_and_says_where_its_report_is(first: Any, own: Settings) -> None:
    assert (first["version"], first["alias"], first["verdict"]["reasons"]) == ("1", "champion", [])
    assert {path.name for path in Path(first["report"]).iterdir()} == {"report.html", "report.json"}
    assert Path(first["report"]).is_relative_to(own.data_dir)


def test_training_every_hour_prints_a_document_a_run_and_ends_in_order_when_told_to(again: Ran) -> None:
    assert again.code == 0
    assert [one["version"] for one in again.documents] == ["2"]
    assert again.stderr.splitlines()[-1] == "Stopped."


def test_a_second_run_while_one_is_going_on_says_so_and_ends(own: Settings) -> None:
    runner = CliRunner(env=dict(settings_environment(own)))
    with only_training_run(own.database_url, own.model_name):
        result = runner.invoke(cli.app, ["train"])
        with only_training_run(own.database_url, "another-model"):
            pass
    assert isinstance(result.exception, TrainingUnderWayError)
    assert str(result.exception) == "Another training run of tried is going on; try again when it has ended."
    with only_training_run(own.database_url, own.model_name):
        pass  # let go at the end


_MOVES = (Action.PROMOTE_MODEL, Action.PROMOTE_MODEL, Action.ROLL_BACK_MODEL, Action.SIGN_MODEL)


def test_versions_are_listed_compared_promoted_rolled_back_and_signed(ask: Ask, own: Settings, again: Ran) -> None:
    listed = ask("model", "list")
    assert [one["version"] for one in listed] == ["2", "1"]
    assert all(one["auroc"] > 0.5 and one["stays"] > 100 and len(one["digest"]) == 64 for one in listed)
    found = ask("model", "compare", "1", "2")
    assert found["difference"]["auroc"]["value"] == pytest.approx(
        found["second_evaluation"]["auroc"] - found["first_evaluation"]["auroc"]
    )
    assert found["remarks"]
    with noting(own, *((action, EVERYBODY) for action in _MOVES)):
        ask("model", "promote", "1", "--force")
        assert ask("model", "promote", "2", "--force") == {"was": "1", "now": "2", "gate": "left out"}
        assert ask("model", "rollback") == {"was": "2", "now": "1"}
        ask("model", "sign", "1")
    assert {one["version"]: one["aliases"] for one in ask("model", "list")}["1"] == ["champion"]


def test_promoting_without_force_reads_the_topics_and_asks_the_gate(own: Settings, again: Ran) -> None:
    strict = dict(settings_environment(own)) | {"GATE_AUROC_MARGIN": "0", "GATE_CALIBRATION_RATIO": "1.0001"}
    result = CliRunner(env=strict).invoke(cli.app, ["model", "promote", "2"])
    assert isinstance(result.exception, PromotionRefusedError)
    assert "calibration slope" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_an_unknown_version_is_one_clear_line(own: Settings) -> None:
    for arguments in (["model", "promote", "99"], ["model", "compare", "1", "99"]):
        result = CliRunner(env=dict(settings_environment(own))).invoke(cli.app, arguments)
        assert isinstance(result.exception, NoModelError)
        assert str(result.exception) == "tried has no version or alias 99."


def test_a_person_sees_tables(own: Settings, again: Ran) -> None:
    runner = CliRunner(env={**settings_environment(own), "COLUMNS": "140"})
    assert "champion" in runner.invoke(cli.app, ["model", "list"]).stdout
