"""The file in parts that differ as hospitals do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from connectors.datasets.diabetes130.rows import Stay
from schemas.errors import ConfigurationError


class Part(NamedTuple):
    """Which part of how many, counted from 1."""

    number: int
    of: int


ALL = Part(1, 1)


def parse_part(text: str) -> Part:
    """Read `number/of`, such as `1/3`; raise ConfigurationError for what is no part.

    >>> parse_part("2/3")
    Part(number=2, of=3)
    """
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= part.number <= part.of:
        raise ConfigurationError(f"{text} is no part; 1/3 is the first of three.")
    return part


def stays_of(part: Part, stays: Sequence[Stay]) -> list[Stay]:
    """Choose a part's stays, in order; the parts share no patient_nbr and are about equally large.

    The file names no hospital. What hospitals differ in, and what it has, are who pays and which specialty admits:
    stays with the same payer_code and medical_specialty go to one part, the largest groups first, each to the part
    that is smallest so far. A patient's stays all go where the first one goes.
    """
    groups: dict[str, tuple[str, str]] = {}
    for stay in stays:
        groups.setdefault(stay.patient_nbr, (stay.payer_code, stay.medical_specialty))
    sizes = Counter(groups[stay.patient_nbr] for stay in stays)
    filled, home = [0] * part.of, dict[tuple[str, str], int]()
    for group, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0])):
        home[group] = filled.index(min(filled))
        filled[home[group]] += size
    return [stay for stay in stays if home[groups[stay.patient_nbr]] == part.number - 1]
