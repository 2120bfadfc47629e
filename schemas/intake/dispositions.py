"""How a stay ended, as HL7's discharge-disposition codes."""

from __future__ import annotations

from typing import Any

DIED = "exp"
TRANSFERRED = "other-hcf"
AGAINST_ADVICE = "aadvice"

OTHER = "oth"
_CODES = frozenset(
    ["home", "alt-home", TRANSFERRED, "hosp", "long", AGAINST_ADVICE, DIED, "psy", "rehab", "snf", OTHER]
)

_ENTLASSUNGSGRUND = "http://fhir.de/StructureDefinition/Entlassungsgrund"

# First and second digit of the German discharge reason (§ 301 SGB V, key 5) → discharge-disposition.
_GERMAN = {
    "01": "home",
    "02": "home",
    "03": "home",
    "04": AGAINST_ADVICE,
    "06": TRANSFERRED,
    "07": DIED,
    "08": TRANSFERRED,
    "09": "rehab",
    "10": "long",
    "11": "hosp",
}


def discharge_disposition(hospitalization: dict[str, Any]) -> str | None:
    """Read Encounter.hospitalization's discharge disposition, None where it has none.

    Sources: https://hl7.org/fhir/R4/valueset-encounter-discharge-disposition.html; the extension
    Entlassungsgrund of the German core data set.
    """
    disposition = hospitalization.get("dischargeDisposition") or {}
    for extension in (*disposition.get("extension", ()), *hospitalization.get("extension", ())):
        if extension.get("url") == _ENTLASSUNGSGRUND:
            return _german(extension)
    for coding in disposition.get("coding", ()):
        if coding.get("code"):
            return str(coding["code"])
    return None


def _german(extension: dict[str, Any]) -> str | None:
    for part in extension.get("extension", ()):
        if part.get("url") == "ErsteUndZweiteStelle":
            return _GERMAN.get(str((part.get("valueCoding") or {}).get("code")), OTHER)
    return None


def shared_disposition(code: str | None) -> str | None:
    """Return a disposition as it may leave the institution: `oth` for a code that is none of HL7's, so free text.

    >>> shared_disposition("home"), shared_disposition("to her daughter")
    ('home', 'oth')
    """
    return code if code is None or code in _CODES else OTHER
