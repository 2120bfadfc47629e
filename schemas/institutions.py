"""The institutions and what each calls an inpatient stay; `institutions.yaml` is their one home."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from schemas.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class StayRules:
    """What counts as an inpatient stay and as an emergency visit at an institution.

    `min_finished`: any finished encounter at least that long is a stay; None switches the rule off.
    """

    inpatient_classes: frozenset[str]
    stay_levels: frozenset[str]
    min_finished: timedelta | None
    emergency_classes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Institution:
    """A hospital's id (as in topic names), its name, the time zone of its dates, its stay rules."""

    id: str
    name: str
    time_zone: ZoneInfo
    rules: StayRules


@cache
def institutions() -> dict[str, Institution]:
    """Read all institutions by id, in the file's order."""
    return read_institutions(files("schemas").joinpath("institutions.yaml").read_text("utf-8"))


def read_institutions(text: str) -> dict[str, Institution]:
    """Read a file of institutions; raise ConfigurationError where it makes no sense."""
    try:
        document = yaml.safe_load(text)
        return {id_: _institution(id_, document["defaults"], own) for id_, own in document["institutions"].items()}
    except (
        AttributeError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        OSError,
        RecursionError,
        yaml.YAMLError,
    ) as e:
        raise ConfigurationError(f"institutions.yaml makes no sense ({type(e).__name__}).") from e


def institution(id_: str) -> Institution:
    """Return the institution; raise ConfigurationError that names the known ones."""
    try:
        return institutions()[id_]
    except KeyError:
        raise ConfigurationError(f"There is no institution {id_!r}; known are {', '.join(institutions())}.") from None


def _institution(id_: str, defaults: dict[str, Any], own: dict[str, Any]) -> Institution:
    inpatient = {**defaults["inpatient"], **own.get("inpatient", {})}
    hours = inpatient.get("min_finished_hours")
    emergency = {**defaults["emergency"], **own.get("emergency", {})}
    return Institution(
        id=id_,
        name=own["name"],
        time_zone=ZoneInfo(own.get("time_zone", defaults["time_zone"])),
        rules=StayRules(
            inpatient_classes=frozenset(inpatient["classes"]),
            stay_levels=frozenset(inpatient["stay_levels"]),
            min_finished=None if hours is None else timedelta(hours=hours),
            emergency_classes=frozenset(emergency["classes"]),
        ),
    )
