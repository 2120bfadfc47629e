"""Alerts on the real stack: told once, whatever is repeated, late, away or killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr

from connectors.settings import Settings
from healthalliance.progress import fetch
from tests.integration.alerting import Alerts, Receiver, Scores, Stay, alerts_of, mark
from tests.integration.command_line import Ended, run
from tests.integration.running import wait_until

pytestmark = pytest.mark.stack

_INSTITUTION = "embl"
_SECRET = "a-secret-of-the-test-that-is-long"


@pytest.fixture(scope="module")
def scores(stack: Settings) -> Scores:
    return Scores(stack.model_copy(update={"alert_timeout_s": 1.0, "retry_timeout_s": 30.0}))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture
def channel() -> str:
    return f"test-{uuid4().hex[:12]}"


def once(scores: Scores, channel: str, *arguments: object, receiver: Receiver | None = None) -> Ended:
    """Read what is there and alert once."""
    where = ("--sink", "webhook", "--url", receiver.url) if receiver else ()
    done = run(scores.settings, "alerts", "-i", _INSTITUTION, "--channel", channel, *where, "--once", "--json",
               *arguments)  # fmt: skip
    assert done.code == 0, done.stderr
    return done


def started(scores: Scores, channel: str, receiver: Receiver, *arguments: object) -> Alerts:
    return Alerts(scores.settings, "-i", _INSTITUTION, "--channel", channel, "--sink", "webhook", "--url", receiver.url,
                  *arguments)  # fmt: skip


def begun(scores: Scores, channel: str) -> None:
    """Have the channel begin, so that what comes from now on is alerted."""
    once(scores, channel)


def stay() -> Stay:
    return Stay(_INSTITUTION)


# --- what is told


def test_a_crossing_is_told_once_with_its_reasons_and_pseudonyms_only(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    begun(scores, channel)
    one = stay()
    low, high = one.scored("low"), one.scored("high")
    scores.add(low, high)
    document = once(scores, channel, receiver=receiver).document
    assert document["alerts"] == {"opened": 1, "sent": 1}
    once(scores, channel, receiver=receiver)
    [posted] = receiver.posted
    [row] = alerts_of(scores.settings, channel)
    assert posted.document == {
        "alert_id": row["alert_id"],
        "institution": _INSTITUTION,
        "patient_pseudonym": one.patient,
        "encounter_pseudonym": one.encounter,
        "record_id": high.record_id,
        "band": "high",
        "probability": 0.4,
        "headline": "The risk of another inpatient stay within 30 days of discharge is high: 40 %.",
        "reasons": ["3 inpatient stays in the last year (+13.0)", "4 active conditions (+6.0)", "age of 80 years (+4.0)"],
        "scored_at": high.scored_at.isoformat(),
        "decided_at": row["decided_at"].isoformat(),
        "link": None,
    }
    assert posted.headers["Idempotency-Key"] == posted.headers["webhook-id"] == row["alert_id"]
    assert "webhook-signature" not in posted.headers
    assert (row["state"], row["attempts"], row["reason"]) == ("delivered", 1, None)
    assert high.patient_reference.encode() not in posted.body
    assert high.encounter_reference.encode() not in posted.body


def test_repeats_late_ones_and_messages_that_are_no_scores_are_passed_over(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    begun(scores, channel)
    one, other = stay(), stay()
    high, fallen = one.scored("high"), one.scored("low")
    scores.add(high)
    once(scores, channel, receiver=receiver)
    scores.add(fallen)
    scores.publish(high, high, fallen)
    scores.publish_raw(_INSTITUTION, b"no score")
    scores.publish_raw(_INSTITUTION, b"\x00\x7f\xff\xff\xffno such schema")
    scores.publish_raw(_INSTITUTION, None)
    scores.add(other.scored("high"))
    document = once(scores, channel, receiver=receiver).document
    assert document["scores"] == {"news": 2, "repeat": 3, "unreadable": 2}
    assert other.last
    assert receiver.records() == [high.record_id, other.last.record_id]


def test_what_stands_at_the_first_start_is_not_told_unless_asked_for(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    one = stay()
    first = one.scored("high")
    scores.add(first)
    begun(scores, channel)
    assert alerts_of(scores.settings, channel) == []
    with_all = once(scores, f"{channel}-all", "--from-beginning").document
    assert first.record_id in {alert["record_id"] for alert in with_all["sent"]}
    low, again = one.scored("low"), one.scored("high")
    scores.add(low, again)
    once(scores, channel, receiver=receiver)
    assert receiver.records() == [again.record_id]


def test_an_alert_that_is_outdated_before_it_could_be_sent_is_not(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    one, other = stay(), stay()
    with Receiver(lambda _: 500) as broken:
        scores.add(one.scored("high"), other.scored("high"))
        once(scores, channel, receiver=broken)
    scores.add(one.scored(None))
    time.sleep(2.5)  # a failure is tried again after two seconds
    with Receiver() as receiver:
        once(scores, channel, receiver=receiver)
        assert [posted.document["encounter_pseudonym"] for posted in receiver.posted] == [other.encounter]
    states = {row["encounter_pseudonym"]: (row["state"], row["reason"]) for row in alerts_of(scores.settings, channel)}
    assert {str(key): value for key, value in states.items()} == {
        one.encounter: ("left", "lower"),
        other.encounter: ("delivered", None),
    }


def test_what_is_told_is_what_stands_when_it_is_told(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    one = stay()
    with Receiver(lambda _: 503) as broken:
        scores.add(one.scored("high"))
        once(scores, channel, receiver=broken)
    newer = one.scored("high", 0.77)
    scores.add(newer)
    time.sleep(2.5)
    with Receiver() as receiver:
        once(scores, channel, receiver=receiver)
        [posted] = receiver.posted
    assert (posted.document["record_id"], posted.document["probability"]) == (newer.record_id, 0.77)
    assert posted.document["alert_id"] == broken.posted[0].document["alert_id"]


# --- marks


def test_a_snoozed_stay_is_told_of_when_the_snooze_ends_if_it_is_still_due(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    begun(scores, channel)
    stands, falls = stay(), stay()
    until = datetime.now(UTC) + timedelta(seconds=8)
    for one in (stands, falls):
        mark(scores.settings, one, snoozed_until=until)
    scores.add(stands.scored("high"), falls.scored("high"))
    with started(scores, channel, receiver):
        wait_until("both wait", lambda: len(alerts_of(scores.settings, channel)) == 2)
        scores.add(falls.scored("low"))
        receiver.wait_for(1)
        assert datetime.now(UTC) >= until
        time.sleep(2)
    assert [posted.document["encounter_pseudonym"] for posted in receiver.posted] == [stands.encounter]


def test_an_acknowledgement_holds_until_the_band_is_higher(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    one = stay()
    seen = one.scored("medium")
    scores.add(seen)
    mark(scores.settings, one, seen=seen.record_id)
    with_medium = ("--min-band", "medium")
    assert once(scores, channel, *with_medium, receiver=receiver).document["queue"] == {"waiting": 1}
    scores.add(one.scored("low"), one.scored("medium"))
    once(scores, channel, *with_medium, receiver=receiver)
    assert receiver.posted == []
    high = one.scored("high")
    scores.add(high)
    once(scores, channel, *with_medium, receiver=receiver)
    assert receiver.records() == [high.record_id]
    mark(scores.settings, one, seen=high.record_id)
    scores.add(one.scored("low"), one.scored("high"))
    once(scores, channel, *with_medium, receiver=receiver)
    assert receiver.records() == [high.record_id]


# --- receivers that fail


def test_a_receiver_that_fails_hangs_and_answers_late_gets_each_alert_once(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    stays = [stay() for _ in range(3)]
    answers = [500, None, 429, 408]
    with Receiver(lambda number: answers[number] if number < len(answers) else 200) as receiver:
        scores.add(*(one.scored("high") for one in stays))
        with started(scores, channel, receiver):
            wait_until("all are delivered", lambda: all_delivered(scores, channel, 3), 60)
        sent = [posted.document["record_id"] for posted in receiver.posted[len(answers) :]]
    assert sorted(sent) == sorted(one.last.record_id for one in stays if one.last)
    assert sum(row["attempts"] for row in alerts_of(scores.settings, channel)) == 3 + len(answers)


def all_delivered(scores: Scores, channel: str, number: int) -> bool:
    rows = alerts_of(scores.settings, channel)
    return len(rows) == number and all(row["state"] == "delivered" for row in rows)


def test_a_receiver_that_refuses_is_not_asked_again(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    one = stay()
    scores.add(one.scored("high"))
    with Receiver(lambda _: 404) as receiver:
        first = once(scores, channel, receiver=receiver).document
        time.sleep(2.5)
        second = once(scores, channel, receiver=receiver).document
        assert len(receiver.posted) == 1
    assert (first["alerts"], second["alerts"]) == ({"opened": 1, "refused": 1}, {})
    [row] = alerts_of(scores.settings, channel)
    assert (row["state"], row["reason"]) == ("refused", "HTTP 404")


def test_a_receiver_that_says_when_to_come_again_is_left_alone_until_then(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    with Receiver(lambda number: 429 if number == 0 else 200, {"Retry-After": "6"}) as receiver:
        with started(scores, channel, receiver):
            receiver.wait_for(2)
        assert receiver.posted[1].at - receiver.posted[0].at >= 6


# --- processes that die


def test_a_kill_between_the_answer_and_its_note_repeats_one_alert_under_the_same_key(
    scores: Scores, channel: str
) -> None:
    begun(scores, channel)
    stays = [stay() for _ in range(4)]
    # The second one is taken by the receiver, and the process dies before it hears so.
    with Receiver(lambda number: None if number == 1 else 200) as receiver:
        scores.add(*(one.scored("high") for one in stays))
        with started(scores, channel, receiver) as first:
            receiver.wait_for(2)
            first.kill()
        with started(scores, channel, receiver):
            wait_until("all are delivered", lambda: all_delivered(scores, channel, 4), 60)
        keys = [posted.headers["Idempotency-Key"] for posted in receiver.posted]
        assert len(keys) == 5
        assert keys.count(keys[1]) == 2
        assert len(set(keys)) == 4
        assert {posted.document["record_id"] for posted in receiver.posted} == {
            one.last.record_id for one in stays if one.last
        }


def test_two_processes_of_a_channel_tell_each_alert_once(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    stays = [stay() for _ in range(60)]
    with started(scores, channel, receiver) as one, started(scores, channel, receiver) as two:
        for part in range(0, 60, 10):
            scores.add(*(each.scored("high") for each in stays[part : part + 10]))
            scores.publish(*(each.last for each in stays[: part + 10] if each.last))
        wait_until("all are delivered", lambda: all_delivered(scores, channel, 60), 60)
        assert (one.stop(), two.stop()) == (0, 0)
    assert sorted(receiver.records()) == sorted(each.last.record_id for each in stays if each.last)


def test_it_ends_in_order_when_asked_to(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    with started(scores, channel, receiver) as one:
        receiver.wait_for(1)
        assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()
    assert all_delivered(scores, channel, 1)


# --- signed, erased


def test_a_posted_alert_is_signed_and_no_secret_is_logged(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    signing = scores.settings.model_copy(update={"alert_webhook_secret": SecretStr(_SECRET), "log_level": "DEBUG"})
    done = run(signing, "alerts", "-i", _INSTITUTION, "--channel", channel, "--sink", "webhook", "--url",
               f"{receiver.url}?token=hush", "--once", "--json")  # fmt: skip
    assert done.code == 0
    [posted] = receiver.posted
    signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    expected = base64.b64encode(hmac.new(_SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert posted.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(posted.headers["webhook-timestamp"]) - time.time()) < 60
    assert not [secret for secret in (_SECRET, "hush") if secret in done.stderr + done.stdout]


def test_nothing_is_kept_of_a_patient_whose_scores_are_gone(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    one = stay()
    scores.publish(one.scored("high"))  # erased between the score's commit and its being read
    document = once(scores, channel, receiver=receiver).document
    assert document["scores"] == {"erased": 1}
    assert receiver.posted == []
    assert fetch(scores.settings, "SELECT FROM alert_standings WHERE patient_pseudonym = $1", one.patient) == []


def test_the_queue_is_in_the_words_of_the_chosen_language(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    [alert] = once(scores, channel, "--language", "de").document["sent"]
    assert alert["headline"].endswith("ist hoch: 40 %.")
    assert alert["reasons"][0] == "3 stationäre Aufenthalte im letzten Jahr (+13,0)"
    assert json.dumps(alert)
