"""What the local stack says to its callers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from connectors.settings import Settings

Say = Callable[[str], None]


class Part(StrEnum):
    """A part of the stack; the value names its folder and its log file."""

    KAFKA = "kafka"
    REGISTRY = "registry"
    POSTGRES = "postgres"
    MLFLOW = "mlflow"


LABELS = {
    Part.KAFKA: "Apache Kafka",
    Part.REGISTRY: "Schema registry",
    Part.POSTGRES: "PostgreSQL",
    Part.MLFLOW: "Model store",
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
class PartStatus:
    """How a part is; `pid` and `memory_bytes` only where a process of this stack runs.

    `address` never holds a password, and is empty for a part that is stopped.
    """

    part: Part
    state: Literal["running", "stopped", "external"]
    address: str
    pid: int | None = None
    memory_bytes: int | None = None
