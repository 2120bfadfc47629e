"""What operators' commands leave in the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from connectors.settings import Settings
from healthalliance.progress import fetch
from schemas.audit import Action

_ALL = "SELECT institution, action FROM audit_events WHERE agent LIKE 'operator:%' ORDER BY recorded_at"


@contextmanager
def noting(settings: Settings, *actions: tuple[Action, str]) -> Iterator[None]:
    """Fail unless operators meanwhile do these things, each with its institution, in this order and no other."""
    before = len(fetch(settings, _ALL))
    yield
    noted = [(row["action"], row["institution"]) for row in fetch(settings, _ALL)[before:]]
    assert noted == [*actions]
