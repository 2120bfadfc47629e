"""Kafka, schema registry, PostgreSQL and model store on this machine, without Docker, on loopback only."""

from __future__ import annotations

from healthalliance.local_stack.records import Addresses, Part, PartStatus, Progress, Report
from healthalliance.local_stack.stack import connected, down, status, up
from healthalliance.local_stack.state import Ports

__all__ = ["Addresses", "Part", "PartStatus", "Ports", "Progress", "Report", "connected", "down", "status", "up"]
