"""Note in the audit log what operators do by commands."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from connectors.audit_log import append_once
from connectors.settings import Settings
from schemas.audit import Action, AuditEntry, Outcome


def note_access(
    settings: Settings,
    action: Action,
    institution: str,
    subjects: Sequence[str] = (),
    outcome: Outcome = Outcome.GRANTED,
) -> None:
    """Note what the operator who runs this process is about to see or change; see `AuditEntry` for the subjects.

    Raises UnavailableError where it cannot be kept: then nothing may be shown or changed.
    """
    entry = AuditEntry(institution, datetime.now(UTC), f"operator:{_login()}", action, tuple(subjects), outcome)
    asyncio.run(append_once(settings.database_url, [entry]))


@contextmanager
def noted_change(settings: Settings, action: Action, institution: str, subjects: Sequence[str] = ()) -> Iterator[None]:
    """Note a change before it is made, and once more if it is not; raise as `note_access` does."""
    note_access(settings, action, institution, subjects)
    try:
        yield
    except BaseException:
        note_access(settings, action, institution, subjects, Outcome.FAILED)
        raise


def _login() -> str:
    """Name the process's user; the environment does not matter, whoever starts it can set that."""
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
