"""Rules and runbooks: every alert is tried both ways, asks for what there is, and leads to what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.institutions import institutions
from tests.contract.promql import RULES, Rule, alerts, faults_of, rules
from tests.contract.source_code import ROOT
from tests.unit.healthalliance.test_cli import COMMANDS

PROMETHEUS = ROOT / "monitoring" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
EACH_RULE = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
EACH_ALERT = pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule.name)


def promtool(*arguments: object) -> str:
    ended = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert "is valid" in promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_every_alert_does_in_prometheus_what_its_cases_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "tests" / "healthalliance.yml")


def test_a_wrong_threshold_is_noticed(tmp_path: Path) -> None:
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
    wrong = RULES.read_text("utf-8").replace("waiting_events:sum > 5000", "waiting_events:sum > 50000")
    (tmp_path / "rules" / RULES.name).write_text(wrong, "utf-8")
    cases = tmp_path / "tests" / RULES.name
    cases.write_text((PROMETHEUS / "tests" / RULES.name).read_text("utf-8"), "utf-8")
    with pytest.raises(AssertionError, match="EventsWait fires"):
        promtool("test", "rules", cases)


def cases_of(alert: str) -> list[bool]:
    """Tell for each case of an alert whether it is to fire there."""
    document = yaml.safe_load((PROMETHEUS / "tests" / RULES.name).read_text("utf-8"))
    tried: list[dict[str, Any]] = [one for case in document["tests"] for one in case["alert_rule_test"]]
    return [bool(one["exp_alerts"]) for one in tried if one["alertname"] == alert]


@EACH_ALERT
def test_each_alert_is_tried_where_it_fires_and_where_it_is_silent(alert: Rule) -> None:
    assert sorted(cases_of(alert.name)) == [False, True]


@EACH_RULE
def test_each_rule_asks_only_for_series_and_labels_that_are_declared(rule: Rule) -> None:
    assert list(faults_of(rule.expression)) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(healthalliance_events[5m])", "no series healthalliance_events"),
        ('healthalliance_events_total{hospital="a"}', "no label hospital of healthalliance_events_total"),
        ("sum by (le) (rate(healthalliance_events_total[5m]))", "no label le"),
        ("healthalliance_ready and on (part) healthalliance_ready", "no label part"),
        ("vector(1)", "no series at all"),
    ],
)
def test_a_query_for_what_there_is_not_is_noticed(expression: str, fault: str) -> None:
    assert list(faults_of(expression)) == [fault]


@EACH_ALERT
def test_each_alert_says_how_bad_it_is_what_it_is_and_where_to_read_what_to_do(alert: Rule) -> None:
    assert alert.labels.keys() == {"severity"}
    assert alert.labels["severity"] in ("critical", "warning")
    assert alert.annotations.keys() == {"summary", "runbook_url"}
    assert alert.annotations["summary"].endswith(".")
    assert alert.annotations["runbook_url"] == f"docs/runbooks.md#{alert.name.lower()}"


def test_the_runbooks_are_those_of_the_alerts_in_their_order() -> None:
    text = RUNBOOKS.read_text("utf-8")
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == [alert.name for alert in alerts()]
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        assert re.findall(r"^\* \*\*(.+?)\.\*\*", part, re.MULTILINE) == ["Meaning", "First look", "What to do"]


def test_the_runbooks_name_only_commands_that_there_are() -> None:
    named = set(re.findall(r"(?:^|`)healthalliance (\S+?)[\s`]", RUNBOOKS.read_text("utf-8"), re.MULTILINE))
    assert len(named) >= 8
    assert named <= COMMANDS


def test_no_rule_names_an_institution() -> None:
    text = RULES.read_text("utf-8")
    assert [id_ for id_ in institutions() if id_ in text] == []
