"""Simulated events of patients that no other test has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from connectors.simulator import simulate
from connectors.source_event import SourceEvent

_START = datetime(2023, 1, 1, tzinfo=UTC)


def events_of(
    name: str, institution: str, patients: int, until: datetime, *, faults: float = 0.05
) -> list[SourceEvent]:
    """Simulate patients from 2023 on, with `name` in all their ids in place of the simulator's own `sim`."""
    return [
        renamed(one, name)
        for one in simulate(institution, 7, patients, _START, until, epoch=_START, fault_share=faults)
    ]


def renamed(event: SourceEvent, name: str) -> SourceEvent:
    new = f"{name}-".encode()
    value = None if event.value is None else event.value.replace(b"sim-", new)
    return replace(event, key=event.key.replace(b"sim-", new), value=value)


def shuffled(events: Iterable[SourceEvent], seed: int) -> list[SourceEvent]:
    mixed = list(events)
    Random(seed).shuffle(mixed)
    return mixed
