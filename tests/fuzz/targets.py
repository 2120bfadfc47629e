"""What is fuzzed: each target draws an input, reads it, and fails where reading raises what it does not promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import yaml
from cryptography.exceptions import InvalidTag
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.models import from_bytes
from connectors.settings import Settings
from healthalliance.api.cds_hooks import Feedback, HookRequest
from healthalliance.api.keys import KeyRing
from healthalliance.api.page import KeyIn
from healthalliance.api.predictions import FeaturesIn
from healthalliance.api.problems import ProblemError
from healthalliance.api.scores import page_end
from schemas import avro
from schemas.errors import ConfigurationError, ModelRefusedError
from schemas.features import FEATURE_NAMES, Features
from schemas.history import decode_history, encode_history
from schemas.institutions import read_institutions
from schemas.intake.event import parse_event
from schemas.intake.structure import fhirkit_issues
from schemas.messages import EncounterFeatures
from schemas.pseudonyms import institution_keys
from tests.unit.schemas.fhir_events import LIMITS, dkfz, raw, to_bytes
from tests.unit.schemas.test_never_raises import JSON, VALID, places

Draw = Callable[[st.SearchStrategy[Any]], Any]

_KEYS = institution_keys("fuzz" * 8, "dkfz")
_SOMEBODY = _KEYS.patient_pseudonym("p1")
_AT = datetime(2024, 1, 1, tzinfo=UTC)


def changed(draw: Draw, value: bytes) -> bytes:
    """Draw bytes like these: some replaced, doubled, taken out, or others altogether."""
    found = bytearray(value)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(found)))
        end = at + draw(st.integers(0, 8))
        found[at:end] = draw(st.binary(max_size=8) | st.just(bytes(found[at:end]) * draw(st.integers(0, 3))))
    return bytes(found)


def read_event(draw: Draw) -> None:
    """Bytes from Kafka or HTTP, by way of all stages: an event comes to entries or issues and never raises."""
    value = draw(st.sampled_from(VALID))
    if draw(st.booleans()):
        document = json.loads(value)
        for _ in range(draw(st.integers(1, 3))):
            holder, key = draw(st.sampled_from(places(document)))
            holder[key] = draw(JSON)
        value = to_bytes(document)
    else:
        value = changed(draw, value)
    key = draw(st.none() | st.binary(max_size=40) | st.sampled_from([b"Patient/p1", b"Encounter/e1"]))
    parsed = parse_event(raw(draw(st.just(value) | st.none()), key=key), dkfz(), LIMITS, fhirkit_issues)
    assert all(issue.text for issue in parsed.issues)


_BODIES: dict[type[BaseModel], bytes] = {
    FeaturesIn: b'{"age":1,"gender_encoded":0,"num_conditions":1,"num_medications":1,"recent_encounters":0}',
    HookRequest: b'{"hook":"encounter-discharge","hookInstance":"00000000-0000-0000-0000-000000000000",'
    b'"context":{"userId":"u","patientId":"p","encounterId":"e"},"prefetch":{"patient":{"id":"p"}}}',
    Feedback: b'{"feedback":[{"card":"00000000-0000-0000-0000-000000000000","outcome":"accepted",'
    b'"outcomeTimestamp":"2026-01-05T10:00:00Z"}]}',
    KeyIn: b'{"key":"k"}',
}


def read_body(draw: Draw) -> None:
    """Bodies of the API's operations but events: what is not as described is a ValidationError."""
    model = draw(st.sampled_from(list(_BODIES)))
    with suppress(ValidationError):
        model.model_validate_json(changed(draw, _BODIES[model]))


def read_cursor(draw: Draw) -> None:
    """A page's end, as a caller gives it back: what is none is a problem."""
    with suppress(ProblemError):
        page_end(draw(st.text(max_size=80) | st.just("MjAyNC0wMS0wMVQwMDowMDowMCswMDowMCA=").map(lambda one: one[:20])))


def open_history(draw: Draw) -> None:
    """Sealed histories: only whole ones open, and what opens is read or a ValueError; what was written comes back."""
    sealed = _KEYS.seal(draw(st.binary(max_size=60)), _SOMEBODY)
    other = changed(draw, sealed)
    with suppress(InvalidTag, ValueError):
        _KEYS.unseal(other, _SOMEBODY)
        assert other == sealed
    with suppress(ValueError):
        history = decode_history(changed(draw, _HISTORY))
        assert decode_history(encode_history(history)) == history


_HISTORY = b"\x81\xaapatient_id\xa2p1"
_FEATURES = EncounterFeatures(
    institution="dkfz", patient_pseudonym=_SOMEBODY, person_pseudonym=None, encounter_pseudonym=_SOMEBODY,
    encounter_version="version_id:1", status="finished", class_code="IMP", inpatient=True, planned=False,
    admitted_at=_AT, discharged_at=_AT, as_of=_AT, disposition=None, deceased_at=None, features=Features(
        *[1.0] * len(FEATURE_NAMES)
    ), feature_set=1, summary_only=False,
)  # fmt: skip


def decode_message(draw: Draw) -> None:
    """Avro records from topics: what is none is a ValueError, whatever lengths it claims."""
    written = avro.encode(_FEATURES)
    with suppress(ValueError):
        avro.decode("EncounterFeatures", changed(draw, written))
    assert avro.decode("EncounterFeatures", written)["institution"] == "dkfz"


_INSTITUTIONS = "defaults:\n  time_zone: Europe/Berlin\n  inpatient: {classes: [IMP], stay_levels: []}\n" \
    "  emergency: {classes: [EMER]}\ninstitutions:\n  one: {name: One}\n"  # fmt: skip


def read_institutions_file(draw: Draw) -> None:
    """The file of institutions, as an operator may have edited it: what makes no sense is a ConfigurationError."""
    with suppress(ConfigurationError):
        if draw(st.booleans()):
            read_institutions(changed(draw, _INSTITUTIONS.encode()).decode("utf-8", "replace"))
        else:
            document = yaml.safe_load(_INSTITUTIONS)
            holder, key = draw(st.sampled_from(places(document)))
            holder[key] = draw(JSON)
            read_institutions(json.dumps(document))


def read_settings(draw: Draw) -> None:
    """Settings, as the environment may hold them: what makes no sense is a ValidationError or ConfigurationError."""
    name = draw(st.sampled_from(sorted(Settings.model_fields)))
    with suppress(ValidationError):
        Settings(_env_file=None, **{name: draw(st.text(max_size=30))})
    with suppress(ConfigurationError):
        KeyRing.of({draw(st.sampled_from(["dkfz", "x"])): draw(st.text(max_size=80))})


def load_model(draw: Draw) -> None:
    """Files that claim to be models: what is none is refused."""
    with suppress(ModelRefusedError):
        from_bytes(
            changed(draw, draw(st.sampled_from([b"", b"\x08\x0a\x12\x07", b"\x80\x04c"]))), name="m", version="1"
        )


TARGETS: dict[str, Callable[[Draw], None]] = {
    one.__name__: one
    for one in (
        read_event, read_body, read_cursor, open_history, decode_message, read_institutions_file, read_settings,
        load_model,
    )
}  # fmt: skip
