"""All metrics of the workers, each explained by its help text. No label holds anything of a patient."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # memory, processor time, when it was started

EVENTS = Counter(
    "healthalliance_events", "Events applied, by how they ended.", ["institution", "outcome"], registry=REGISTRY
)
REJECTIONS = Counter(
    "healthalliance_rejections", "Issues that rejected events or parts of them.", ["institution", "reason"],
    registry=REGISTRY,
)  # fmt: skip
SCORES = Counter(
    "healthalliance_scores", "Scores written, by band; retracted ones count as such.", ["institution", "band"],
    registry=REGISTRY,
)  # fmt: skip
PROBABILITY = Histogram(
    "healthalliance_probability", "Calibrated probabilities of the scores written.", ["institution"],
    buckets=[0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0], registry=REGISTRY,
)  # fmt: skip
REPUBLISHED = Counter(
    "healthalliance_republished_events", "Events that had been applied before and only had their results sent again.",
    ["institution"], registry=REGISTRY,
)  # fmt: skip
BATCH_EVENTS = Histogram(
    "healthalliance_batch_events", "Events in a batch.", buckets=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000],
    registry=REGISTRY,
)  # fmt: skip
BATCH_SECONDS = Histogram(
    "healthalliance_batch_seconds", "Time a batch spends in each step.", ["step"],
    buckets=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10], registry=REGISTRY,
)  # fmt: skip
EVENT_AGE_SECONDS = Histogram(
    "healthalliance_event_age_seconds", "Time from an event's arrival at the broker to its commit in PostgreSQL.",
    buckets=[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600], registry=REGISTRY,
)  # fmt: skip
RETRIES = Counter(
    "healthalliance_retries", "Batches tried again because something outside did not answer.", ["part"],
    registry=REGISTRY,
)  # fmt: skip
WAITING_EVENTS = Gauge(
    "healthalliance_waiting_events", "Events of a partition this worker holds that are not worked off yet.",
    ["institution", "partition"], registry=REGISTRY,
)  # fmt: skip
READY = Gauge("healthalliance_ready", "1 while the worker consumes, else 0.", registry=REGISTRY)
INTAKE_STOPPED = Gauge(
    "healthalliance_intake_stopped", "1 while an institution's intake is stopped, else 0.", ["institution"],
    registry=REGISTRY,
)  # fmt: skip
MODEL = Gauge("healthalliance_model", "1 for the model that scores.", ["name", "version"], registry=REGISTRY)
MODEL_REGISTERED = Gauge(
    "healthalliance_model_registered_timestamp_seconds", "When the model that scores was registered, as Unix time.",
    ["name", "version"], registry=REGISTRY,
)  # fmt: skip
CHALLENGER = Gauge(
    "healthalliance_challenger", "1 for the model that scores beside it, unpublished.", ["name", "version"],
    registry=REGISTRY,
)  # fmt: skip
MODEL_REFUSALS = Counter(
    "healthalliance_model_refusals", "Looks for a new model that found none to use, by what was wrong.", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
MODEL_OUTCOMES = Gauge(
    "healthalliance_model_outcomes", "Stays of the last 90 days of outcomes that a model's scores are judged by.",
    ["institution", "model_version", "role"], registry=REGISTRY,
)  # fmt: skip
MODEL_AUROC = Gauge(
    "healthalliance_model_auroc", "Area under the ROC curve of those scores.",
    ["institution", "model_version", "role"], registry=REGISTRY,
)  # fmt: skip
MODEL_CALIBRATION_RATIO = Gauge(
    "healthalliance_model_calibration_ratio", "Observed share of readmissions by the mean of those scores.",
    ["institution", "model_version", "role"], registry=REGISTRY,
)  # fmt: skip
MODEL_BRIER = Gauge(
    "healthalliance_model_brier", "Mean squared error of those scores.",
    ["institution", "model_version", "role"], registry=REGISTRY,
)  # fmt: skip
FEATURE_PSI = Gauge(
    "healthalliance_feature_psi", "Population stability index of a feature of the last stays against the training's.",
    ["institution", "feature"], registry=REGISTRY,
)  # fmt: skip
