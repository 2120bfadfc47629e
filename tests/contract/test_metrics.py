"""The metrics: explained, under one name, and without a label that could hold anything of a patient."""

from __future__ import annotations

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from healthalliance.alerting import metrics as alerting
from streams import metrics

LABELS = {"institution", "outcome", "reason", "band", "step", "part", "name", "version"}
LABELS |= {"model_version", "role", "feature", "partition"}
METRICS: dict[str, MetricWrapperBase] = {
    name: value
    for module in (metrics, alerting)
    for name, value in vars(module).items()
    if isinstance(value, Counter | Gauge | Histogram)
}
EACH = pytest.mark.parametrize("name", METRICS)


def test_there_are_metrics_and_their_registries_hold_no_other() -> None:
    assert len(METRICS) > 10
    described = {family.name for metric in METRICS.values() for family in metric.describe()}
    collected = {family.name for one in (metrics, alerting) for family in one.REGISTRY.collect()}
    assert {name for name in collected if not name.startswith("process_")} == described


@EACH
def test_each_metric_is_of_this_system_and_says_what_it_counts(name: str) -> None:
    [family] = METRICS[name].describe()
    assert family.name == f"healthalliance_{name.lower()}" or family.name.startswith(f"healthalliance_{name.lower()}_")
    assert family.documentation.endswith(".")
    assert len(family.documentation.split()) >= 3


@EACH
def test_no_label_could_hold_anything_of_a_patient(name: str) -> None:
    assert set(METRICS[name]._labelnames) <= LABELS  # a metric tells its labels in no other way before it has values
