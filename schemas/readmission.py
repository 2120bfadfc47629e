"""What counts as a readmission, of one patient's stays: the rules that training labels and matured outcomes share.

They are those of the Tuva project's readmissions mart (https://thetuvaproject.com/data-marts/readmissions) and of the
measure it follows, CMS's Hospital-Wide All-Cause Unplanned Readmission (doi:10.7326/M13-3000). Who dies at home within
the 30 days counts as not readmitted there, and so here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import msgspec

from schemas.intake.dispositions import AGAINST_ADVICE, DIED, TRANSFERRED

FOLLOW_UP = timedelta(days=30)
TRANSFER_WINDOW = timedelta(days=1)


class Stay(NamedTuple):
    """An inpatient stay, by its encounter's pseudonym; times in UTC, `discharged_at` None while it is open."""

    encounter_pseudonym: str
    admitted_at: datetime
    discharged_at: datetime | None
    disposition: str | None
    planned: bool
    summary_only: bool = False

    @property
    def end(self) -> datetime:
        """Return the discharge; an open stay overlaps nothing that began after it, for nobody knows its end."""
        return self.discharged_at or self.admitted_at


class NoIndex(StrEnum):
    """Why a stay is not followed; the first that holds counts, in this order."""

    SAME_EPISODE = "same-episode"
    SUMMARY_ONLY = "summary-only"
    OPEN = "open"
    DIED = "died"
    TRANSFERRED = "transferred"
    AGAINST_ADVICE = "against-advice"


class Followed(NamedTuple):
    """What became of a stay.

    because: why it is no index stay. readmitted_at: when the readmission within 30 days of an index stay began, None
    while there is none, however long ago the discharge was.
    """

    stay: Stay
    because: NoIndex | None
    readmitted_at: datetime | None


def follow(stays: Iterable[Stay], deceased_at: datetime | None = None) -> Iterator[Followed]:
    """Say of each of one patient's stays at one institution what became of it; their order does not matter.

    Of an episode the stay that ends last is followed. It counts as readmitted if the next episode begins unplanned and
    up to 30 days after its discharge; after a planned one nobody can say which of the two discharges a later one
    belongs to.
    """
    for episode, following in pairwise([*_episodes(stays), None]):
        assert episode is not None
        last = _ending_last(episode)
        yield from (Followed(stay, NoIndex.SAME_EPISODE, None) for stay in episode if stay is not last)
        because = _why_not(last, episode, deceased_at)
        opening = following[0] if following else None
        came_back = because is None and opening is not None and _comes_back(last, opening)
        yield Followed(last, because, opening.admitted_at if opening and came_back else None)


def _episodes(stays: Iterable[Stay]) -> list[list[Stay]]:
    """Join stays that adjoin an earlier one or follow a transfer; among those admitted at once the longest is first."""
    episodes: list[list[Stay]] = []
    before: Stay | None = None  # what ended last so far
    for stay in sorted(stays, key=lambda one: (one.admitted_at, one.admitted_at - one.end, one.encounter_pseudonym)):
        if before is not None and _goes_on(before, stay):
            episodes[-1].append(stay)
        else:
            episodes.append([stay])
        before = stay if before is None or stay.end >= before.end else before
    return episodes


def _goes_on(before: Stay, stay: Stay) -> bool:
    gap = stay.admitted_at - before.end
    return gap <= timedelta() or (before.disposition == TRANSFERRED and gap <= TRANSFER_WINDOW)


def _ending_last(episode: list[Stay]) -> Stay:
    last = episode[0]
    for stay in episode[1:]:
        last = stay if stay.end >= last.end else last
    return last


def _why_not(last: Stay, episode: list[Stay], deceased_at: datetime | None) -> NoIndex | None:
    if last.summary_only:
        return NoIndex.SUMMARY_ONLY
    if last.discharged_at is None:
        return NoIndex.OPEN
    if any(stay.disposition == DIED for stay in episode) or (deceased_at is not None and deceased_at <= last.end):
        return NoIndex.DIED
    if last.disposition == TRANSFERRED:
        return NoIndex.TRANSFERRED
    return NoIndex.AGAINST_ADVICE if last.disposition == AGAINST_ADVICE else None


def _comes_back(last: Stay, opening: Stay) -> bool:
    return not opening.planned and opening.admitted_at - last.end <= FOLLOW_UP


class Outcome(StrEnum):
    """What became of a discharged stay as far as its patient's history tells.

    Whether a pending one is `not-readmitted` by now depends on how far its institution's events reach, not on the
    patient: the view `risk_outcomes` says it.
    """

    PENDING = "pending"
    READMITTED = "readmitted"
    CENSORED = "censored"


class StayOutcome(msgspec.Struct, frozen=True, gc=False):
    """A discharged stay's row in `score_outcomes`.

    because: why it is censored, for ever unless a correction changes it. record_id, received_at: the score that stood
    at the discharge, None where nothing scored then.
    """

    institution: str
    encounter_pseudonym: str
    patient_pseudonym: str
    discharged_at: datetime
    outcome: Outcome
    because: NoIndex | None
    readmitted_at: datetime | None
    record_id: str | None
    received_at: datetime | None


class OutcomeChange(msgspec.Struct, frozen=True, gc=False):
    """A stay's new row, None where it is discharged no more.

    is_new: it was not discharged before, or known in summary only. A row that is not there is changed to nothing: stays
    discharged before there were outcomes are left out, whatever becomes of them, for counting only those who come back
    would make readmissions look commoner than they are.
    """

    row: StayOutcome | None
    is_new: bool

    def after(self, before: OutcomeChange | None) -> OutcomeChange:
        """Join a change with the one that came before it; the score that stood at an unchanged discharge stays."""
        if before is None or before.row is None or self.row is None:
            return self
        row = self.row
        if row.discharged_at == before.row.discharged_at:
            held = before.row
            row = msgspec.structs.replace(row, record_id=held.record_id, received_at=held.received_at)
        return OutcomeChange(row, before.is_new or self.is_new)
