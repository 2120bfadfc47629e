"""What goes out: scores and features under their keys, tombstones, and rejected events as they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.operationoutcome import OperationOutcome
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka import OutMessage
from connectors.registry import to_wire
from schemas import avro
from schemas.intake.event import ParsedEvent, RawEvent
from schemas.rejection import MOST_ISSUES, Issue, Reason
from schemas.topics import TOPIC_SPECS, TopicFamily, topic_name
from streams.decision import Event, FeaturesChange, Rejected
from streams.outgoing import erasure_message, features_out, rejected_message, risk_message
from streams.scoring import score
from tests.unit.schemas.fhir_events import ARRIVAL, TOPIC, encounter, to_bytes
from tests.unit.streams.batches import TOPIC_ID, LinearModel, event, events, sender, taken

RISK, FEATURES, REJECTED = (
    topic_name(family, "dkfz") for family in (TopicFamily.RISK, TopicFamily.FEATURES, TopicFamily.REJECTED)
)
SCHEMA_IDS = {RISK: 7, FEATURES: 8}
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ISSUE = Issue(Reason.INVALID_CODE, "Encounter.status", "Encounter.status: not one of them.")


def test_a_score_goes_to_its_institution_keyed_by_the_patient() -> None:
    [one] = score(taken(events(encounter())).decisions[0].to_score, LinearModel(), ARRIVAL)
    message = risk_message(one, SCHEMA_IDS, None)
    assert message == OutMessage(RISK, b"Patient/p1", to_wire(7, one))
    assert message.value is not None
    assert avro.decode("RiskScore", message.value[5:])["record_id"] == one.record_id


def test_a_score_carries_its_events_trace_on() -> None:
    [one] = score(taken(events(encounter())).decisions[0].to_score, LinearModel(), ARRIVAL)
    assert risk_message(one, SCHEMA_IDS, TRACEPARENT).headers == (("traceparent", TRACEPARENT),)


def test_features_go_out_under_the_encounters_pseudonym_and_without_any_reference() -> None:
    [change] = taken(events(encounter("enc-17", patient="pat-4"))).decisions[0].features
    message = features_out(change, SCHEMA_IDS)
    assert change.message is not None
    assert message == OutMessage(FEATURES, change.encounter_pseudonym.encode(), to_wire(8, change.message))
    assert not [own for own in (b"enc-17", b"pat-4") if own in (message.key or b"") + (message.value or b"")]


def test_retracted_features_and_an_erased_patients_scores_become_tombstones() -> None:
    assert features_out(FeaturesChange("dkfz", "e", None), SCHEMA_IDS) == OutMessage(FEATURES, b"e", None)
    assert erasure_message("dkfz", "p1") == OutMessage(RISK, b"Patient/p1", None)


# --- rejected events


def rejected(
    value: bytes | None = b"{", *issues: Issue, key: bytes | None = b"k", headers: tuple[tuple[str, bytes], ...] = ()
) -> OutMessage:
    raw = RawEvent(TOPIC, 3, 14, key, value, ARRIVAL, headers)
    return rejected_message(Rejected(Event(raw, ParsedEvent(), sender(), TOPIC_ID), issues or (ISSUE,)))


HEADERS = st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3).map(tuple)


@given(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=20), HEADERS)
def test_a_rejected_event_keeps_its_bytes_key_and_headers(
    value: bytes | None, key: bytes | None, headers: tuple[tuple[str, bytes], ...]
) -> None:
    message = rejected(value, key=key, headers=headers)
    assert (message.topic, message.key, message.value) == (REJECTED, key, value)
    assert message.headers[: len(headers)] == headers


def test_error_headers_say_where_it_stood_and_why() -> None:
    second = Issue(Reason.MISSING_CLASS, "Encounter.class", "Encounter.class: needed.")
    headers = dict(rejected(b"{}", ISSUE, second, headers=(("trace", b"1"),)).headers)
    outcome = json.loads(headers.pop("healthalliance.operation_outcome"))
    assert headers == {
        "trace": b"1",
        "__connect.errors.topic": TOPIC.encode(),
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"14",
        "__connect.errors.connector.name": b"healthalliance",
        "__connect.errors.stage": b"VALUE_CONVERTER",
        "__connect.errors.exception.message": ISSUE.text.encode(),
        "healthalliance.reason": b"invalid-code",
        "healthalliance.path": b"Encounter.status",
        "healthalliance.topic_id": TOPIC_ID.encode(),
    }
    read: Any = OperationOutcome.model_validate(outcome)
    assert [issue.expression for issue in read.issue] == [["Encounter.status"], ["Encounter.class"]]


ANY_TEXT = st.text(st.characters(), max_size=20)  # surrogates included


@given(st.sampled_from(Reason), ANY_TEXT | st.just("\ud800"), ANY_TEXT | st.just("\udfff.x"))
def test_odd_text_in_a_path_or_message_is_rendered_all_the_same(reason: Reason, path: str, text: str) -> None:
    headers = dict(rejected(b"{}", Issue(reason, path, text)).headers)
    assert headers["healthalliance.path"].decode() == path.encode("utf-8", "replace").decode()
    assert json.loads(headers["healthalliance.operation_outcome"])["issue"][0]["diagnostics"] == text


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=20).map(lambda name: to_bytes({**encounter(), name + "x": 1})))
def test_whatever_is_rejected_can_be_sent_back(value: bytes) -> None:
    one = event(value, 0)
    if one.parsed.issues:
        assert rejected_message(Rejected(one, one.parsed.issues)).value == value


LARGEST, LIMIT = (
    int(TOPIC_SPECS[family].config["max.message.bytes"]) for family in (TopicFamily.ENCOUNTERS, TopicFamily.REJECTED)
)
LONG = "x" * 3_000_000


@pytest.mark.parametrize(
    ("value", "issues"),
    [
        pytest.param(
            b"x" * 5_000_000, (Issue(Reason.STRUCTURE, LONG, LONG),) * MOST_ISSUES, id="as many long issues as are kept"
        ),
        pytest.param(b"x" * 3_000_000, (Issue(Reason.STRUCTURE, LONG, LONG),), id="an element's name of 3 MB"),
        pytest.param(b"x" * (LARGEST - 100), (ISSUE,), id="an event as large as its topic takes"),
    ],
)
def test_a_rejected_event_fits_into_its_topic_whatever_is_wrong_with_it(
    value: bytes, issues: tuple[Issue, ...]
) -> None:
    # One that does not would end every worker that meets it.
    message = rejected(value, *issues)
    size = len(message.value or b"") + len(message.key or b"")
    size += sum(len(name) + len(text) for name, text in message.headers)
    assert size < LIMIT
