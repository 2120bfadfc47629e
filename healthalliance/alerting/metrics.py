"""All metrics of the alerts, each explained by its help text. No label holds anything of a patient."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

ALERTS = Counter(
    "healthalliance_alerts", "Alerts, by what became of them: opened, sent, failed once, refused, or why they left.",
    ["institution", "outcome"], registry=REGISTRY,
)  # fmt: skip
ALERTS_HELD = Gauge(
    "healthalliance_alerts_held", "Alerts that wait, by why they are not sent now.", ["institution", "reason"],
    registry=REGISTRY,
)  # fmt: skip
ALERTS_SCORES = Counter(
    "healthalliance_alerts_scores", "Scores read, by what they were: news, repeats, unreadable, of erased patients.",
    ["institution", "outcome"], registry=REGISTRY,
)  # fmt: skip
ALERTS_LAG = Gauge(
    "healthalliance_alerts_lag", "Messages on the topic that have not been read yet.", ["institution"],
    registry=REGISTRY,
)  # fmt: skip
ALERTS_DELAY_SECONDS = Histogram(
    "healthalliance_alerts_delay_seconds", "Time from the score that crossed being read to its alert being taken.",
    ["institution"], buckets=[0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600],
    registry=REGISTRY,
)  # fmt: skip
ALERTS_RETRIES = Counter(
    "healthalliance_alerts_retries", "Steps tried again because something outside did not answer.", ["part"],
    registry=REGISTRY,
)  # fmt: skip
