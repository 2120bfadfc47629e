"""The database's roles that are no logins: what may be read, and whose."""

from __future__ import annotations

from typing import Final

from schemas.institutions import institutions

ANALYST: Final = "analyst"  # each encounter's scores, of the institutions that a login is in
AGGREGATE_ANALYST: Final = "aggregate_analyst"  # aggregates alone, of the same
ONE_INSTITUTION: Final = "one_institution"  # what serves the institution that the session's setting names

INSTITUTION_SETTING: Final = "healthalliance.institution"


def institution_role(institution: str) -> str:
    """Name the role whose members see the institution's rows of what they may read otherwise."""
    return f"institution_{institution}"


ROLES: Final = (ANALYST, AGGREGATE_ANALYST, ONE_INSTITUTION, *map(institution_role, institutions()))


def one_institution(institution: str) -> dict[str, str]:
    """Return the settings of a session that can see and write this institution's rows only, whoever logs in."""
    return {"role": ONE_INSTITUTION, INSTITUTION_SETTING: institution}
