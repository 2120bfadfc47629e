"""The topics: four families, one of each for every institution. No topic name is written elsewhere.

python -m schemas.topics write    writes `schemas/topics.json`, which Terraform reads, anew
python -m schemas.topics check    fails where that file is not what this module says
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from schemas.errors import ConfigurationError
from schemas.institutions import institutions

TOPICS_FILE = Path(__file__).with_name("topics.json")

_DAYS_30_MS = 30 * 24 * 3600 * 1000
_DAYS_7_MS = 7 * 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000


class TopicFamily(StrEnum):
    """What a topic carries; its name is `<family>.<institution>`."""

    ENCOUNTERS = "encounters"
    RISK = "risk"
    FEATURES = "features"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A family's key, value and broker configuration; `record` names the Avro record, None for raw bytes."""

    family: TopicFamily
    key: str
    record: str | None
    config: dict[str, str]


# The broker stamps arrival, so that no sender's clock decides a month's partition or a latency.
# An event of event_max_bytes and its headers must fit into the rejected topic as well.
_MAX_BYTES = {"max.message.bytes": str(12 * 1024 * 1024)}

TOPIC_SPECS = {
    TopicFamily.ENCOUNTERS: TopicSpec(
        TopicFamily.ENCOUNTERS,
        key="patient reference",
        record=None,
        config={
            "cleanup.policy": "delete",
            "retention.ms": str(_DAYS_30_MS),
            "message.timestamp.type": "LogAppendTime",
            **_MAX_BYTES,
        },
    ),
    TopicFamily.RISK: TopicSpec(
        TopicFamily.RISK,
        key="patient reference",
        record="RiskScore",
        config={"cleanup.policy": "compact,delete", "retention.ms": str(_DAYS_30_MS)},
    ),
    TopicFamily.FEATURES: TopicSpec(
        TopicFamily.FEATURES,
        key="encounter pseudonym",
        record="EncounterFeatures",
        # A record supersedes nothing for compaction within its first hour: a snapshot is read in less, and so loses no
        # encounter whose newer version lies beyond the snapshot's end. Within a week of a tombstone what it hides is
        # gone, where without that bound an erased patient's features could stay as long as little else is dirty.
        config={
            "cleanup.policy": "compact",
            "retention.ms": "-1",
            "min.compaction.lag.ms": str(_HOUR_MS),
            "max.compaction.lag.ms": str(_DAYS_7_MS),
        },
    ),
    TopicFamily.REJECTED: TopicSpec(
        TopicFamily.REJECTED,
        key="original key",
        record=None,
        config={
            "cleanup.policy": "delete",
            "retention.ms": str(_DAYS_30_MS),
            "max.message.bytes": str(16 * 1024 * 1024),
        },
    ),
}


def topic_name(family: TopicFamily, institution_id: str) -> str:
    """Name a topic.

    >>> topic_name(TopicFamily.RISK, "dkfz")
    'risk.dkfz'
    """
    return f"{family}.{institution_id}"


def institution_of(topic: str) -> str:
    """Read the institution's id off a topic's name."""
    return topic.partition(".")[2]


def topic_names(family: TopicFamily) -> list[str]:
    """Name the family's topics of all institutions."""
    return [topic_name(family, id_) for id_ in institutions()]


def generate() -> str:
    """Write all topics as JSON text: by name its family, institution and broker configuration."""
    topics = {
        topic_name(family, id_): {"family": family.value, "institution": id_, "config": spec.config}
        for family, spec in TOPIC_SPECS.items()
        for id_ in institutions()
    }
    return json.dumps(topics, indent=2) + "\n"


def check() -> None:
    """Raise ConfigurationError unless the committed file is what `generate` gives."""
    if not TOPICS_FILE.exists() or TOPICS_FILE.read_text("utf-8") != generate():
        raise ConfigurationError(
            "schemas/topics.json is not what schemas/topics.py and schemas/institutions.yaml say; "
            "write it anew with `python -m schemas.topics write`."
        )


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["write"]:
            TOPICS_FILE.write_text(generate(), "utf-8")
        check()
        print("The topics' file is current.")
    except ConfigurationError as error:
        sys.exit(f"{error}")
