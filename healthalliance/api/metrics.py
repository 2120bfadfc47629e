"""All metrics of the HTTP API. No label holds anything of a patient, or of what a caller sent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # memory, processor time, when it was started

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]

REQUESTS = Counter(
    "http_requests", "Requests answered, by the route's path.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds", "Time to the whole answer, by the route's path.", ["method", "route"],
    buckets=_SECONDS, registry=REGISTRY,
)  # fmt: skip
CONNECTIONS = Gauge("active_connections", "Requests that are being answered.", registry=REGISTRY)
PREDICTIONS = Counter("predictions", "Scores made on request, by band.", ["institution", "band"], registry=REGISTRY)
PREDICTION_SECONDS = Histogram(
    "prediction_duration_seconds", "Time from a read request to its score.",
    buckets=[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1], registry=REGISTRY,
)  # fmt: skip
CONFIDENCE = Histogram(
    "model_confidence_score", "The larger of a predicted probability and its complement.",
    buckets=[0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0], registry=REGISTRY,
)  # fmt: skip
INTAKE = Counter(
    "http_intake_events", "Events received over HTTP, by what became of them.", ["institution", "outcome"],
    registry=REGISTRY,
)  # fmt: skip
