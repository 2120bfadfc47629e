"""Which encounters are inpatient stays, which are parts of one, and which can be scored."""

from __future__ import annotations

from schemas.history import EncounterFacts
from schemas.institutions import StayRules

# https://hl7.org/fhir/R4/v3/ActEncounterCode/vs.html
_CLASSES = frozenset(["AMB", "EMER", "FLD", "HH", "IMP", "ACUTE", "NONAC", "OBSENC", "PRENC", "SS", "VR"])


def shared_class(code: str | None, rules: StayRules) -> str | None:
    """Return an Encounter.class code as it may leave the institution: None for one that is free text."""
    return code if code in _CLASSES or code in rules.inpatient_classes or code in rules.emergency_classes else None


def is_part(encounter_id: str, facts: EncounterFacts, rules: StayRules) -> bool:
    """Tell whether an encounter is only a part of another and so never a stay or a readmission of its own.

    A contact level decides where the sender gives one (German core data set, module Fall); else `partOf`.
    """
    if facts.level is not None:
        return facts.level not in rules.stay_levels
    return facts.part_of is not None and facts.part_of != encounter_id


def is_inpatient(encounter_id: str, facts: EncounterFacts, rules: StayRules) -> bool:
    """Tell whether an encounter is an inpatient stay under the institution's rules."""
    if is_part(encounter_id, facts, rules) or not took_place(facts):
        return False
    if facts.class_code in rules.inpatient_classes:
        return True
    return (
        rules.min_finished is not None
        and facts.status == "finished"
        and facts.started is not None
        and facts.ended is not None
        and facts.ended - facts.started >= rules.min_finished
    )


def took_place(facts: EncounterFacts) -> bool:
    """Tell whether the patient came: a planned encounter is a wish, not a visit."""
    return facts.status != "planned"
