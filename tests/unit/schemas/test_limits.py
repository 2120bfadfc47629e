"""All limits of what comes in as JSON, in one table: at the limit it is read, one more and it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ValidationError

from healthalliance.api.cds_hooks import Feedback, HookRequest
from healthalliance.api.page import KeyIn
from healthalliance.api.predictions import FeaturesIn
from schemas.intake.event_bytes import Limits, read_json
from schemas.rejection import Issue, Reason
from tests.unit.schemas.fhir_events import encounter, findings, parse

NARROW = Limits(max_bytes=1_000, max_depth=64)
WIDE = Limits()


@dataclass(frozen=True)
class Limit:
    """What is limited, to how much; `make` makes an event of a size, `reason` is why a larger one is rejected."""

    most: int
    make: Callable[[int], bytes]
    reason: Reason
    limits: Limits = WIDE


EVENTS = {
    "bytes of an event": Limit(1_000, lambda size: b'{"a":1}'.ljust(size), Reason.TOO_LARGE, NARROW),
    "levels": Limit(64, lambda levels: b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}", Reason.TOO_DEEP),
    "members of an object": Limit(
        1_000, lambda members: b"{%s}" % b",".join(b'"%d":1' % n for n in range(members)), Reason.TOO_WIDE
    ),
    "entries of a Bundle": Limit(
        5_000, lambda entries: b'{"entry":[%s]}' % b",".join([b"{}"] * entries), Reason.TOO_MANY_ENTRIES
    ),
    "exponent of a number": Limit(308, lambda exponent: b'{"a":1e%d}' % exponent, Reason.NOT_JSON),
    "digits of a number": Limit(309, lambda digits: b'{"a":1%s}' % (b"0" * (digits - 1)), Reason.NOT_JSON),
}


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_at_a_limit_is_read_and_one_beyond_is_not(what: str) -> None:
    limit = EVENTS[what]
    assert isinstance(read_json(limit.make(limit.most), limit.limits), dict)
    beyond = read_json(limit.make(limit.most + 1), limit.limits)
    assert isinstance(beyond, Issue)
    assert beyond.reason is limit.reason


@pytest.mark.parametrize(("length", "is_good"), [(64, True), (65, False)])
def test_an_id_has_64_characters_at_most(length: int, is_good: bool) -> None:
    for event in (encounter("e" * length), encounter(patient="p" * length)):
        assert (findings(parse(event)) == []) == is_good


_FIVE = '"gender_encoded":0,"num_conditions":1,"num_medications":1,"recent_encounters":0'
_CARD = "00000000-0000-0000-0000-000000000000"
_CONTEXT = '"patientId":"%s","encounterId":"%s","userId":"%s"'


def _feedback(cards: int, code: int = 1, system: int = 1) -> str:
    reason = f'{{"reason":{{"code":"{"c" * code}","system":"{"s" * system}"}}}}'
    one = (
        f'{{"card":"{_CARD}","outcome":"accepted","outcomeTimestamp":"2026-01-05T10:00:00Z","overrideReason":{reason}}}'
    )
    return f'{{"feedback":[{",".join([one] * cards)}]}}'


def _hook(patient: int = 1, encounter: int = 1, user: int = 1) -> str:
    context = _CONTEXT % ("p" * patient, "e" * encounter, "u" * user)
    return f'{{"hook":"encounter-discharge","hookInstance":"{_CARD}","context":{{{context}}}}}'


BODIES: dict[str, tuple[type[BaseModel], int, Callable[[int], str]]] = {
    "an age": (FeaturesIn, 130, lambda age: f'{{"age":{age},{_FIVE}}}'),
    "a count": (FeaturesIn, 10_000, lambda count: f'{{"age":1,{_FIVE},"length_of_stay_days":{count}}}'),
    "a key": (KeyIn, 200, lambda length: f'{{"key":"{"k" * length}"}}'),
    "cards in one feedback": (Feedback, 100, _feedback),
    "a reason's code": (Feedback, 100, lambda length: _feedback(1, code=length)),
    "a reason's system": (Feedback, 200, lambda length: _feedback(1, system=length)),
    "a hook's patient": (HookRequest, 64, lambda length: _hook(patient=length)),
    "a hook's encounter": (HookRequest, 64, lambda length: _hook(encounter=length)),
    "a hook's user": (HookRequest, 200, lambda length: _hook(user=length)),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_a_body_at_a_limit_is_read_and_one_beyond_is_not(what: str) -> None:
    model, most, make = BODIES[what]
    model.model_validate_json(make(most))
    with pytest.raises(ValidationError):
        model.model_validate_json(make(most + 1))
