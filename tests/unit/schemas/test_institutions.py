"""The institutions: read from one file, each with its own rules over the common ones."""

from __future__ import annotations

import re
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from schemas.errors import ConfigurationError
from schemas.institutions import StayRules, _institution, institution, institutions

FIRST = ["dkfz", "ukhd", "embl"]
COMMON = StayRules(
    inpatient_classes=frozenset({"IMP", "ACUTE", "NONAC", "OBSENC", "SS"}),
    stay_levels=frozenset({"einrichtungskontakt"}),
    min_finished=timedelta(hours=24),
    emergency_classes=frozenset({"EMER"}),
)
DEFAULTS = {
    "time_zone": "Europe/Berlin",
    "inpatient": {"classes": ["IMP"], "stay_levels": ["einrichtungskontakt"], "min_finished_hours": 24},
    "emergency": {"classes": ["EMER"]},
}


def test_the_first_institutions_are_there_in_the_files_order() -> None:
    assert list(institutions())[: len(FIRST)] == FIRST
    assert [one.id for one in institutions().values()] == list(institutions())


@pytest.mark.parametrize("id_", institutions())
def test_an_id_can_be_part_of_a_topic_a_principal_and_a_resources_name(id_: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,30}", id_)
    assert institution(id_).name


@pytest.mark.parametrize("id_", FIRST)
def test_the_first_institutions_have_the_common_rules(id_: str) -> None:
    assert (institution(id_).rules, institution(id_).time_zone) == (COMMON, ZoneInfo("Europe/Berlin"))


def test_an_entry_changes_the_rules_it_names_and_no_others() -> None:
    own = {"name": "x", "time_zone": "UTC", "inpatient": {"classes": ["A"], "min_finished_hours": None}}
    made = _institution("x", DEFAULTS, own)
    assert made.time_zone == ZoneInfo("UTC")
    assert made.rules == StayRules(frozenset({"A"}), frozenset({"einrichtungskontakt"}), None, frozenset({"EMER"}))


def test_an_unknown_institution_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no institution 'charite'; known are " + ", ".join(institutions())):
        institution("charite")
