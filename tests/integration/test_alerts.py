"""Alerts on the real stack: told once, whatever is repeated, late, away or killed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from pydantic import SecretStr

from connectors.alert_store import AlertWrites, open_alert_store
from connectors.settings import Settings
from connectors.store import Writes, connect
from healthalliance.alerting.budget import rights
from healthalliance.progress import fetch
from schemas.alert import Crossing, Opened, scored
from tests.integration.alerting import Alerts, Receiver, Scores, Stay, alerts_of, mark
from tests.integration.command_line import Ended, run
from tests.integration.mailing import PASSWORD, USER, Mailbox, mail_server, make_certificate
from tests.integration.running import wait_until

pytestmark = pytest.mark.stack

_INSTITUTION = "embl"
_SECRET = "a-secret-of-the-test-that-is-long"


@pytest.fixture(scope="module")
def scores(own_stack: Settings) -> Scores:
    return Scores(own_stack.model_copy(update={"alert_timeout_s": 2.0, "retry_timeout_s": 30.0}))


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

    async def begin() -> None:
        store = await open_alert_store(scores.settings.database_url, _INSTITUTION, channel)
        await store.begin(datetime.now(UTC))
        await store.close()

    asyncio.run(begin())


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
        "reasons": [
            "3 inpatient stays in the last year (+13.0)",
            "4 active conditions (+6.0)",
            "age of 80 years (+4.0)",
        ],
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
    first, stands, falls = stay(), stay(), stay()
    scores.add(first.scored("high"))
    with started(scores, channel, receiver):
        receiver.wait_for(1)  # a start may take longer than the snooze
        until = datetime.now(UTC) + timedelta(seconds=6)
        for one in (stands, falls):
            mark(scores.settings, one, snoozed_until=until)
        scores.add(stands.scored("high"), falls.scored("high"))
        wait_until("both wait", lambda: len(alerts_of(scores.settings, channel)) == 3)
        scores.add(falls.scored("low"))
        receiver.wait_for(2)
        assert datetime.now(UTC) >= until
        time.sleep(2)
    told = [posted.document["encounter_pseudonym"] for posted in receiver.posted]
    assert told == [first.encounter, stands.encounter]


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
            wait_until("all are delivered", lambda: all_delivered(scores, channel, 3), 120)
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


def test_what_was_refused_can_be_sent_again_while_it_still_stands(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    begun(scores, channel)
    stands, fell = stay(), stay()
    scores.add(stands.scored("high"), fell.scored("high"))
    with Receiver(lambda _: 401) as refusing:
        once(scores, channel, receiver=refusing)
        assert len(refusing.posted) == 2
    scores.add(fell.scored("low"))
    once(scores, channel, receiver=receiver)
    again = run(scores.settings, "alerts", "resend", "-i", _INSTITUTION, "--channel", channel, "--json")
    assert again.document["waiting_again"] == 1, again.stderr
    once(scores, channel, receiver=receiver)
    assert [posted.document["encounter_pseudonym"] for posted in receiver.posted] == [stands.encounter]


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
            wait_until("all are delivered", lambda: all_delivered(scores, channel, 4), 120)
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
        wait_until("all are delivered", lambda: all_delivered(scores, channel, 60), 120)
        assert (one.stop(), two.stop()) == (0, 0)
    assert sorted(receiver.records()) == sorted(each.last.record_id for each in stays if each.last)


def test_kills_at_any_moment_lose_nothing_and_repeat_at_most_one_alert_each(
    scores: Scores, channel: str, receiver: Receiver
) -> None:
    begun(scores, channel)
    kills, stays, random = 4, list[Stay](), Random(7)
    for _ in range(kills):
        with started(scores, channel, receiver) as one:
            before = len(receiver.posted)
            stays += (new := [stay() for _ in range(25)])
            scores.add(*(each.scored("high") for each in new))
            receiver.wait_for(before + random.randint(1, 20))
            one.kill()
    with started(scores, channel, receiver):
        wait_until("all are delivered", lambda: all_delivered(scores, channel, len(stays)), 150)
    keys = [posted.headers["Idempotency-Key"] for posted in receiver.posted]
    assert len(set(keys)) == len(stays)
    assert len(keys) - len(set(keys)) <= kills
    assert set(receiver.records()) == {each.last.record_id for each in stays if each.last}


def test_it_ends_in_order_when_asked_to(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    with started(scores, channel, receiver) as one:
        receiver.wait_for(1)
        assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()
    assert all_delivered(scores, channel, 1)


# --- Slack and mail


def test_slack_gets_its_own_form(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    one = stay()
    scores.add(one.scored("high"))
    done = run(scores.settings, "alerts", "-i", _INSTITUTION, "--channel", channel, "--sink", "slack", "--url",
               receiver.url, "--once", "--json", ALERT_WORKLIST_URL="https://worklist.example/embl")  # fmt: skip
    assert done.document["alerts"] == {"opened": 1, "sent": 1}
    [posted] = receiver.posted
    assert posted.document["text"] == "Readmission risk high at EMBL"
    [header, section] = posted.document["blocks"]
    assert (header["type"], header["text"]["type"]) == ("header", "plain_text")
    assert (section["type"], section["text"]["type"]) == ("section", "mrkdwn")
    told = section["text"]["text"]
    assert "- 3 inpatient stays in the last year (+13.0)" in told
    assert f"Stay: {one.encounter}" in told
    assert told.endswith(f"Worklist: https://worklist.example/embl#{one.encounter}")


def mailed(
    scores: Scores, channel: str, box: Mailbox, *arguments: object, password: str = PASSWORD,
    trusting: Path | None = None,
) -> Ended:  # fmt: skip
    settings = scores.settings.model_copy(
        update={
            "alert_smtp_host": "127.0.0.1", "alert_smtp_port": box.port, "alert_smtp_user": USER,
            "alert_smtp_password": SecretStr(password), "alert_email_from": "HealthAlliance <alerts@hospital.example>",
            "alert_email_to": "ward@hospital.example, night@hospital.example",
        }
    )  # fmt: skip
    return run(settings, "alerts", "-i", _INSTITUTION, "--channel", channel, "--sink", "email", "--once", "--json",
               *arguments, SSL_CERT_FILE=str(trusting or box.certificate))  # fmt: skip


def test_a_mail_is_encrypted_named_by_the_alert_and_repeated_under_the_same_name(
    scores: Scores, channel: str, tmp_path: Path
) -> None:
    begun(scores, channel)
    one = stay()
    high = one.scored("high")
    scores.add(high)
    with mail_server(tmp_path, lambda number: "451 later" if number == 0 else "250 OK") as box:
        first = mailed(scores, channel, box, "--language", "de")
        assert first.document["alerts"] == {"opened": 1, "failed": 1}, first.stderr
        time.sleep(2.5)
        second = mailed(scores, channel, box, "--language", "de")
        assert second.document["alerts"] == {"sent": 1}, second.stderr
    [row] = alerts_of(scores.settings, channel)
    assert [mail["Message-ID"] for mail in box.mails] == [f"<{row['alert_id']}@hospital.example>"] * 2
    assert box.encrypted == [True, True]
    assert box.receivers[0] == ["ward@hospital.example", "night@hospital.example"]
    mail = box.mails[1]
    assert mail["Subject"] == "Wiederaufnahmerisiko hoch in EMBL"
    told = mail.get_content()
    assert f"Bewertung: {high.record_id}" in told
    assert "- 3 stationäre Aufenthalte im letzten Jahr (+13,0)" in told
    assert PASSWORD not in first.stderr + second.stderr


@pytest.mark.parametrize(
    ("answer", "password", "reason"),
    [("550 no such mailbox", PASSWORD, "SMTP 550"), ("250 OK", "another", "SMTP 535")],
    ids=["the receiver", "the login"],
)
def test_a_mail_that_is_refused_is_kept_with_the_reason(
    answer: str, password: str, reason: str, scores: Scores, channel: str, tmp_path: Path
) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    with mail_server(tmp_path, lambda _: answer) as box:
        done = mailed(scores, channel, box, password=password)
    assert done.document["alerts"] == {"opened": 1, "refused": 1}, done.stderr
    [row] = alerts_of(scores.settings, channel)
    assert (row["state"], row["reason"]) == ("refused", reason)


def test_a_mail_is_not_sent_to_a_server_that_cannot_prove_who_it_is(
    scores: Scores, channel: str, tmp_path: Path
) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    with mail_server(tmp_path) as box:
        other, _ = make_certificate(tmp_path, "other")
        done = mailed(scores, channel, box, trusting=other)
        assert done.document["alerts"] == {"opened": 1, "failed": 1}
        assert box.mails == []
    [row] = alerts_of(scores.settings, channel)
    assert (row["state"], row["reason"]) == ("waiting", "SSLCertVerificationError")


# --- a budget


def test_a_days_budget_goes_to_the_highest_and_the_rest_waits(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    stays = [stay() for _ in range(8)]
    scores.add(*(one.scored("high", 0.4 + number / 100) for number, one in enumerate(stays)))
    # By now rights have arisen that lie within a day's budget, and more than one of a large one.
    now = datetime.now(UTC)
    budget = next(number for number in range(1, 5000) if rights(number, now) == 3 or number == 4999)
    free = rights(budget, now)
    assert free <= 3, "too early in the day for any budget of the test"
    document = once(scores, channel, "--budget", budget, receiver=receiver).document
    assert document["queue"] == {"waiting": 8 - free} | ({"delivered": free} if free else {})
    assert [posted.document["encounter_pseudonym"] for posted in receiver.posted] == [
        one.encounter for one in reversed(stays[8 - free :])
    ]
    # What outdates an alert takes it out of the queue, and gives nobody else its place back that was told.
    scores.add(stays[7].scored("low"), stays[0].scored("low"))
    again = once(scores, channel, "--budget", budget, receiver=receiver).document
    assert again["alerts"] == {"lower": 1}
    assert len(receiver.posted) == free


def test_two_processes_share_a_days_budget(scores: Scores, channel: str, receiver: Receiver) -> None:
    begun(scores, channel)
    now = datetime.now(UTC)
    budget = next(number for number in range(1, 5000) if rights(number, now) == 5 or number == 4999)
    with (
        started(scores, channel, receiver, "--budget", budget) as one,
        started(scores, channel, receiver, "--budget", budget) as two,
    ):
        scores.add(*(stay().scored("high") for _ in range(30)))
        wait_until("all are decided", lambda: len(alerts_of(scores.settings, channel)) == 30)
        time.sleep(4)
        assert (one.stop(), two.stop()) == (0, 0)
    assert rights(budget, now) <= len(receiver.posted) <= rights(budget, datetime.now(UTC))


async def test_claims_at_the_same_time_never_exceed_the_rights(scores: Scores, channel: str) -> None:
    await asyncio.to_thread(begun, scores, channel)
    scores_of = [stay().scored("high") for _ in range(20)]
    await asyncio.to_thread(scores.store, *scores_of)
    store = await open_alert_store(scores.settings.database_url, _INSTITUTION, channel)
    now = datetime.now(UTC)
    taken = [scored(vars(one)) for one in scores_of]
    async with store.deciding() as deciding:
        await deciding.write(AlertWrites(now, taken, [Opened(Crossing(one.record_id, None), one) for one in taken], {}))
    queue = [one.alert_id for one in await store.waiting()]
    claims = [store.claim(one, now, now + timedelta(minutes=1), day=now, rights=5) for one in (*queue, *queue)]
    given = [one.alert_id for one in await asyncio.gather(*claims) if one]
    assert len(given) == len(set(given)) == 5
    assert await store.given_since(now) == 5
    later = await store.claim(given[0], now + timedelta(minutes=1), now + timedelta(hours=1), day=now, rights=5)
    assert later is not None
    assert later.attempts == 2
    await store.close()


# --- what a budget would have meant


def test_a_simulation_tells_of_days_and_of_readmissions(scores: Scores) -> None:
    institution, day = "ukhd", datetime(2024, 5, 6, 6, tzinfo=UTC)
    stays = [Stay(institution) for _ in range(4)]
    before = Stay(institution)
    scores.store(before.scored("high", 0.9, at=day - timedelta(days=3)), before.scored("high", 0.95, at=day))
    for number, one in enumerate(stays):
        scores.store(one.scored("high", (4 + number) / 10, at=day + timedelta(hours=1 + number / 2)))
    scores.store(stays[3].scored("low", at=day + timedelta(hours=3)))
    _outcomes(scores, {stays[2]: "readmitted", stays[1]: "readmitted", stays[0]: "pending", before: "readmitted"}, day)
    arguments = ("alerts", "simulate", "-i", institution, "--since", "2024-05-06", "--budget", 1)
    done = run(scores.settings, *arguments, "--json")
    assert done.code == 0, done.stderr
    found = done.document
    # One right, at noon in Berlin: what came until 10:00 UTC competes for it.
    assert found["days"] == [
        {"day": "2024-05-06", "crossings": 4, "sent": 1, "left": 2, "lowest_sent": 0.6, "highest_left": 0.5}
    ]
    known = {"known": 4, "readmitted": 3}
    assert found["outcomes"]["budget"] == known | {"alerted": 1, "caught": 1, "share_caught": 1 / 3, "share_right": 1.0}
    assert found["outcomes"]["unlimited"]["caught"] == 2
    assert found["outcomes"]["day_end"]["caught"] == 1
    table = run(scores.settings, *arguments)
    assert table.code == 0
    assert "2024-05-06" in table.stdout
    assert run(scores.settings, *arguments[:4], "--since", "2024-05-06", "--json").document["sent"] == 4


def _outcomes(scores: Scores, outcomes: dict[Stay, str], at: datetime) -> None:
    """Write what became of stays that ended at a time, which lies 30 days and more back."""
    for one, outcome in outcomes.items():
        assert one.last
        fetch(
            scores.settings,
            """INSERT INTO score_outcomes (institution, encounter_pseudonym, patient_pseudonym, discharged_at, outcome,
                                           record_id, received_at, updated_at)
               VALUES ($1, $2, $3, $4, $5, $6, $4, now())""",
            one.institution, one.encounter, one.patient, at, outcome, one.last.record_id,
        )  # fmt: skip
    fetch(
        scores.settings,
        """INSERT INTO stream_progress (topic_id, source_partition, topic, institution, next_offset, updated_at,
                                        known_until)
           VALUES (gen_random_uuid(), 0, 'encounters.ukhd', 'ukhd', 0, now(), $1)""",
        at + timedelta(days=60),
    )


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
    once(scores, channel)
    one = stay()
    scores.publish(one.scored("high"))  # erased between the score's commit and its being read
    document = once(scores, channel, receiver=receiver).document
    assert document["scores"] == {"erased": 1}
    assert receiver.posted == []
    assert fetch(scores.settings, "SELECT FROM alert_standings WHERE patient_pseudonym = $1", one.patient) == []


def test_an_erased_patient_leaves_the_alerts_too(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    one, other = stay(), stay()
    scores.add(one.scored("high"), other.scored("high"))
    once(scores, channel)
    asyncio.run(_erase(scores.settings, one))
    left = "SELECT patient_pseudonym::text FROM {} WHERE channel = $1"
    for table in ("alerts", "alert_standings"):
        patients = {row["patient_pseudonym"] for row in fetch(scores.settings, left.format(table), channel)}
        assert one.patient not in patients
        assert other.patient in patients


async def _erase(settings: Settings, one: Stay) -> None:
    store = await connect(settings.database_url)
    async with store.batch() as batch:
        await batch.write(
            Writes(now=datetime.now(UTC), advances=(), histories={}, patient_of={}, scores=(), superseded=(),
                   rejected=(), erased={(one.institution, one.patient): (one.encounter,)}, stay_outcomes={},
                   challenger_scores=())
        )  # fmt: skip
    await store.close()


def test_the_queue_is_in_the_words_of_the_chosen_language(scores: Scores, channel: str) -> None:
    begun(scores, channel)
    scores.add(stay().scored("high"))
    [alert] = once(scores, channel, "--language", "de").document["sent"]
    assert alert["headline"].endswith("ist hoch: 40 %.")
    assert alert["reasons"][0] == "3 stationäre Aufenthalte im letzten Jahr (+13,0)"
    assert json.dumps(alert)
