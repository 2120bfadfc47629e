"""Kafka, schema registry, PostgreSQL and model store on this machine, without Docker, on loopback only."""

from __future__ import annotations

from healthalliance.local_stack.ports import DEFAULT_PORTS, Ports
from healthalliance.local_stack.records import Part, PartStatus, Say
from healthalliance.local_stack.stack import (
    apart,
    api_keys_file,
    as_user,
    connected,
    down,
    psql_command,
    status,
    up,
    with_erasure_key,
)

__all__ = [
    "DEFAULT_PORTS",
    "Part",
    "PartStatus",
    "Ports",
    "Say",
    "apart",
    "api_keys_file",
    "as_user",
    "connected",
    "down",
    "psql_command",
    "status",
    "up",
    "with_erasure_key",
]
