"""What the local stack says to its callers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from connectors.settings import Settings


class Part(StrEnum):
    """A part of the stack; the value names its folder and its log file."""

    KAFKA = "kafka"
    REGISTRY = "registry"
    POSTGRES = "postgres"
    MLFLOW = "mlflow"


LABELS = {
    Part.KAFKA: "Apache Kafka",
    Part.REGISTRY: "the schema registry",
    Part.POSTGRES: "PostgreSQL",
    Part.MLFLOW: "the model store",
}

# The setting that replaces the part when it is given.
ADDRESS_SETTINGS = {
    Part.KAFKA: "kafka_bootstrap_servers",
    Part.REGISTRY: "schema_registry_url",
    Part.POSTGRES: "database_url",
    Part.MLFLOW: "mlflow_tracking_uri",
}


def given_address(settings: Settings, part: Part) -> str:
    """Read the address that replaces the part; empty means that the stack provides it."""
    return str(getattr(settings, ADDRESS_SETTINGS[part]))


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts answer, given ones included; `database_url` holds the password."""

    kafka_bootstrap_servers: str
    schema_registry_url: str
    database_url: str
    mlflow_tracking_uri: str
    mlflow_artifacts: Path

    def __repr__(self) -> str:
        return f"Addresses({self.kafka_bootstrap_servers}, {self.schema_registry_url}, {self.mlflow_tracking_uri})"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of `up` or `down`, worded for a person; `part` is None where it concerns all."""

    part: Part | None
    text: str


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class PartStatus:
    """How a part is; `pid` and `memory_bytes` only where a process of this stack runs."""

    part: Part
    state: Literal["running", "stopped", "external"]
    address: str
    pid: int | None = None
    memory_bytes: int | None = None
