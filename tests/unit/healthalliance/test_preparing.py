"""`topics ensure` and `migrate`: each makes what is missing and says whether anything was."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from healthalliance import cli

MISSING = ["one.of-several"]


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@database/d")


def said(*words: str) -> str:
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("created", "text"), [(MISSING, "Created one.of-several."), ([], "Every topic is there.")])
def test_it_says_which_topics_it_created(monkeypatch: pytest.MonkeyPatch, created: list[str], text: str) -> None:
    monkeypatch.setattr("connectors.kafka.ensure_topics", lambda settings: created)
    assert said("topics", "ensure").strip() == text
    assert json.loads(said("topics", "ensure", "--json")) == {"created": created}


@pytest.mark.parametrize(("before", "text"), [(False, "Applied"), (True, "were at the newest")])
def test_it_says_whether_the_tables_were_behind(monkeypatch: pytest.MonkeyPatch, before: bool, text: str) -> None:
    applied: list[str] = []
    monkeypatch.setattr("connectors.migrate.is_migrated", lambda address: before)
    monkeypatch.setattr("connectors.migrate.migrate", applied.append)
    assert text in said("migrate")
    assert json.loads(said("migrate", "--json")) == {"migrated": not before}
    assert applied == ["postgresql://u@database/d"] * 2
