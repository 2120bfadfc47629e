"""Dashboards: what is there is what is made, and each panel asks for what there is in words that Prometheus reads."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.grafana.generate import DASHBOARDS, FOLDER, Dashboard, Panel, text
from tests.contract.promql import alerts, faults_of, labels_kept, queries_of, rules
from tests.contract.source_code import ROOT

PROVISIONING = ROOT / "monitoring" / "grafana" / "provisioning"
UNITS = {"short", "ops", "reqps", "s", "bytes", "percentunit"}
EACH = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
EACH_PANEL = pytest.mark.parametrize(
    ("dashboard", "panel"), PANELS, ids=[f"{dashboard.uid}: {panel.title}" for dashboard, panel in PANELS]
)


def test_the_files_are_those_that_are_made() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{one.uid}.json" for one in DASHBOARDS}


@EACH
def test_each_file_is_as_it_is_made(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.uid}.json").read_text("utf-8") == text(dashboard)


@EACH_PANEL
def test_each_panel_asks_only_for_series_and_labels_that_are_declared(dashboard: Dashboard, panel: Panel) -> None:
    assert [fault for query in panel.queries.values() for fault in faults_of(query)] == []
    assert panel.queries


@EACH_PANEL
def test_each_legend_names_labels_that_the_query_keeps(dashboard: Dashboard, panel: Panel) -> None:
    for legend, query in panel.queries.items():
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels_kept(query)


@EACH_PANEL
def test_each_panel_has_a_unit_and_names_alerts_that_there_are(dashboard: Dashboard, panel: Panel) -> None:
    assert panel.unit in UNITS
    assert panel.about.endswith(".")
    assert set(panel.alerts) <= {alert.name for alert in alerts()}


def test_each_line_that_is_drawn_is_the_threshold_of_an_alert() -> None:
    said = {rule.name: rule.expression for rule in rules()}
    for _, panel in PANELS:
        if panel.alert_above is not None:
            [first, *_] = panel.alerts
            wanted = {f"{panel.alert_above:g}", f"{panel.alert_above / 86400:g} * 86400"}
            found = {one.strip() for one in re.findall(r"(?:>|==) ([\d.]+(?: \* \d+)?)", said[first])}
            assert wanted & found, panel.title


def test_every_alert_is_shown_on_a_panel() -> None:
    assert {alert.name for alert in alerts()} == {name for _, panel in PANELS for name in panel.alerts}


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    asked = [query for dashboard in DASHBOARDS for query in queries_of(dashboard)]
    recorded = [{"record": f"panel:{number}:query", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": recorded}]}), "utf-8")
    ended = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"{len(asked)} rules found" in ended.stdout


def test_dashboards_are_provisioned_with_the_source_that_they_ask() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "healthalliance.yml").read_text("utf-8"))["providers"]
    assert [one["type"] for one in providers] == ["file"]
    for dashboard in DASHBOARDS:
        made: dict[str, Any] = json.loads(text(dashboard))
        used = {target["datasource"]["uid"] for panel in made["panels"] for target in panel["targets"]}
        assert used == {one["uid"] for one in sources}
