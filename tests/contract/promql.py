"""What Prometheus can be asked for, and what a query asks for: metrics with their labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from healthalliance.api import metrics as of_the_api
from monitoring.grafana.generate import Dashboard
from streams import metrics as of_workers
from tests.contract.source_code import ROOT

RULES = ROOT / "monitoring" / "prometheus" / "rules" / "healthalliance.yml"

_TARGET = {"job", "instance"}
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?(?!\s*\(|[\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}


class Rule(NamedTuple):
    """A recording or an alerting rule."""

    name: str
    is_alert: bool
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@cache
def rules() -> tuple[Rule, ...]:
    document = yaml.safe_load(RULES.read_text("utf-8"))
    return tuple(
        Rule(
            one.get("alert") or one["record"],
            "alert" in one,
            one["expr"],
            one.get("labels", {}),
            one.get("annotations", {}),
        )
        for group in document["groups"]
        for one in group["rules"]
    )


def alerts() -> list[Rule]:
    return [rule for rule in rules() if rule.is_alert]


@cache
def series() -> dict[str, set[str]]:
    """Name every series that there is, with its labels: declared, of the process, recorded, or Prometheus's own."""
    found: dict[str, set[str]] = {"up": set(_TARGET), "ALERTS": {"alertname", "alertstate", "severity", "institution"}}
    for module in (of_workers, of_the_api):
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                found |= _series_of(metric)
        found |= {
            sample.name: set(_TARGET)
            for family in module.REGISTRY.collect()
            for sample in family.samples
            if family.name.startswith("process_")
        }
    for rule in rules():
        if not rule.is_alert:
            found[rule.name] = _grouped_by(rule.expression) - {"le"}
    return found


def labels_kept(expression: str) -> set[str]:
    """Name the labels that a query's answer has: those it groups by, or else its series'."""
    named = {name for name, _ in _SELECTOR.findall(expression) if name in series()}
    return _grouped_by(expression) or set().union(*(series()[name] for name in named))


def _grouped_by(expression: str) -> set[str]:
    return {label for labels in _GROUPING.findall(expression) for label in _names(labels)}


def _series_of(metric: MetricWrapperBase) -> dict[str, set[str]]:
    [family] = metric.describe()
    labels = {*metric._labelnames, *_TARGET}  # a metric tells its labels in no other way before it has values
    if isinstance(metric, Counter):
        return {f"{family.name}_total": labels}
    if isinstance(metric, Histogram):
        return {
            f"{family.name}_bucket": labels | {"le"},
            f"{family.name}_sum": labels,
            f"{family.name}_count": labels,
        }
    return {family.name: labels}


def faults_of(expression: str) -> Iterator[str]:
    """Say which series or labels of a query there are not; nothing where all are there."""
    bare = _STRING.sub('""', re.sub(r"\[[^\]]*\]", " ", expression))
    known: set[str] = set()
    selectors = [found for found in _SELECTOR.findall(_GROUPING.sub(" ", bare)) if found[0] not in _WORDS]
    if not selectors:
        yield "no series at all"
    for name, matchers in selectors:
        if name not in series():
            yield f"no series {name}"
            continue
        known |= series()[name]
        yield from (f"no label {one} of {name}" for one in _names(matchers) if one not in series()[name])
    for labels in _GROUPING.findall(bare):
        yield from (f"no label {one}" for one in _names(labels) if one not in known)


def _names(text: str) -> list[str]:
    return [found for part in text.split(",") if (found := re.split(r"[=!~]", part)[0].strip())]


def queries_of(dashboard: Dashboard) -> list[str]:
    """List what a dashboard's panels ask, for all institutions."""
    return [query.replace("$institution", ".*") for panel in dashboard.panels for query in panel.queries.values()]
