"""Who looked at what, and who changed what: entries of the audit log, each bound to the one before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

EVERYBODY = "all"  # the chain of what concerns all institutions, such as a new champion
BEGINNING = bytes(32)  # what the first row of a chain is bound to


class Action(StrEnum):
    """What can be done that is noted; the words are stored, so that they never change."""

    READ_SCORE = "read-score"
    READ_EXPLANATION = "read-explanation"
    LIST_RISK = "list-risk"
    LIST_WORKLIST = "list-worklist"
    READ_WORKLIST_ENTRY = "read-worklist-entry"
    WATCH_WORKLIST = "watch-worklist"
    PREDICT = "predict"
    SHOW_CARD = "show-card"
    ACKNOWLEDGE = "acknowledge"
    SNOOZE = "snooze"
    TAKE_BACK = "take-back"
    EXPLAIN = "explain"
    EXPORT_SCORES = "export-scores"
    EXPORT_PATIENT = "export-patient"
    ERASE = "erase"
    SHOW_REJECTED = "show-rejected"
    REVEAL = "reveal"
    REDRIVE = "redrive"
    DISCARD = "discard"
    RESUME_INTAKE = "resume-intake"
    REPLAY = "replay"
    REBUILD = "rebuild"
    TRAIN = "train"
    PROMOTE_MODEL = "promote-model"
    ROLL_BACK_MODEL = "roll-back-model"
    SIGN_MODEL = "sign-model"


class Outcome(StrEnum):
    """`granted` is noted before an answer is given or a change is made, `failed` after a change that was not."""

    GRANTED = "granted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One access. recorded_at: UTC, to the microsecond.

    institution: whose data, or EVERYBODY. agent: `key:…` or `session:…` with the beginning of the key's hash, or
    `operator:…` with a login's name. subjects: what it is about, as `record:…`, `patient:…` and `encounter:…`
    (pseudonyms), `event:…`, `model:…`; never a hospital's own id.
    """

    institution: str
    recorded_at: datetime
    agent: str
    action: Action
    subjects: tuple[str, ...]
    outcome: Outcome = Outcome.GRANTED


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An entry as it is stored: its number in the institution's chain, from 1, by which login of the database."""

    sequence: int
    entry: AuditEntry
    login: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row of a chain that is not as it was written, and what is wrong with it."""

    sequence: int
    why: str


def digest(entry: AuditEntry) -> bytes:
    """Return the SHA-256 of an entry's canonical form, a JSON array of all it holds."""
    values = [
        entry.institution, entry.recorded_at.astimezone(UTC).isoformat(timespec="microseconds"), entry.agent,
        str(entry.action), list(entry.subjects), str(entry.outcome),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(values, separators=(",", ":")).encode()).digest()


def chained(previous: bytes, sequence: int, entry_digest: bytes, login: str) -> bytes:
    """Bind an entry to the row before it, as `append_audit_event` in the database does.

    SHA-256 of that one's hash, the row's number (8 bytes, the highest first), the entry's digest and the login.
    """
    return hashlib.sha256(previous + sequence.to_bytes(8, "big") + entry_digest + login.encode()).digest()


def fault(previous: bytes, expected: int, row: AuditRow) -> Broken | None:
    """Say what is wrong with the row after the one whose hash is `previous`; None where it is as it was written."""
    if row.sequence != expected:
        return Broken(expected, f"is missing; row {row.sequence} follows")
    try:
        hash_ = chained(previous, expected, digest(row.entry), row.login)
    except (TypeError, ValueError, OverflowError):  # values that nothing here has written, such as a time of infinity
        return Broken(expected, "is not what was written")
    return None if row.hash == hash_ else Broken(expected, "is not what was written")
