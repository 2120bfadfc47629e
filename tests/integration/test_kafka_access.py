"""A real broker lets each user do what is declared and nothing else, over encrypted connections alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from pydantic import SecretStr

from connectors.feature_topics import read_snapshot
from connectors.kafka import Admin, OutMessage, Publisher, ensure_topics, group_members, present_topics
from connectors.kafka_access import client_properties
from connectors.kafka_acls import add_rules, kept_rules, remove_rules
from connectors.settings import Settings
from connectors.simulator import simulate
from healthalliance import local_stack
from healthalliance.progress import wait_until_applied
from healthalliance.publishing import publish_events
from model_training.job import train
from schemas.access import (
    ADMIN,
    DESCRIBE,
    GROUP,
    PREFIXED,
    RANGES_GROUP,
    READ,
    TOPIC,
    WORKER_GROUP,
    WRITE,
    Rule,
    rules,
    users,
)
from schemas.errors import AccessRefusedError, HealthAllianceError, UnavailableError
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name, topic_names
from tests.integration.command_line import run
from tests.integration.running import data_folder, four_free_ports, ready_worker
from tests.integration.running_api import running_api
from tests.integration.secured_kafka import SecuredKafka, secured_kafka
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = pytest.mark.stack

TOPICS = [topic for family in TopicFamily for topic in topic_names(family)]
GROUPS = [
    WORKER_GROUP,
    RANGES_GROUP,
    "nobodys",
    *(f"{begin}{id_}.ward" for id_ in institutions() for begin in ("", "healthalliance-alerts.")),
]
_PATIENTS = 300
_HISTORY = datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
_ANSWER_S = 15.0


@dataclass(frozen=True)
class House:
    """A broker with its topics and rules, and what else a worker needs."""

    broker: SecuredKafka
    base: Settings

    def of(self, user: str) -> Settings:
        return self.broker.user(user, self.base)

    @property
    def admin(self) -> Settings:
        return self.broker.certified(ADMIN, self.base)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with data_folder() as base, secured_kafka(base) as broker:
        found = House(broker, base)
        ensure_topics(found.admin)
        done = run(found.admin, "acl", "apply", "--json")
        assert done.code == 0, done.stderr
        assert len(done.document["add"]) == len(rules())
        # Something to be read by whoever may.
        Publisher(found.admin).publish(OutMessage(topic, b"key", b"value", partition=0) for topic in TOPICS)
        yield found


def declared(user: str, operation: str, resource: str) -> list[Rule]:
    return [one for one in rules() if (one.user, one.operation, one.resource) == (user, operation, resource)]


def covered(names: Iterable[str], allowed: Iterable[Rule]) -> set[str]:
    """Choose the names that rules reach."""
    ways = [(one.name, one.pattern == PREFIXED) for one in allowed]
    return {name for name in names for rule, begins in ways if name == rule or (begins and name.startswith(rule))}


# --- every user, every topic


def writable(settings: Settings, topics: list[str]) -> set[str]:
    """Publish to each topic; return those that took it. Without idempotence, which is a right of its own kind."""
    producer = Producer(client_properties(settings) | {"message.timeout.ms": 20_000, "log_level": 0})
    answers: dict[str, KafkaError | None] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        answers[str(message.topic())] = error

    for topic in topics:
        try:
            producer.produce(topic, b"tried", b"key", partition=1, on_delivery=delivered)
        except KafkaException as error:
            answers[topic] = error.args[0]
    producer.flush(_ANSWER_S)
    assert answers.keys() == set(topics)
    return _allowed(answers, KafkaError.TOPIC_AUTHORIZATION_FAILED)


def readable(settings: Settings, topics: list[str], group: str) -> set[str]:
    """Read each topic's first message; return those that gave it."""
    consumer = Consumer(client_properties(settings) | {"group.id": group, "enable.auto.commit": False, "log_level": 0})
    answers, deadline = dict[str, KafkaError | None](), time.monotonic() + _ANSWER_S
    try:
        # A topic that the user may not even see ends no fetch: what is told of it says so.
        seen = {topic: consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].error for topic in topics}
        answers |= {topic: error for topic, error in seen.items() if error is not None}
        consumer.assign([TopicPartition(topic, 0, 0) for topic in topics if topic not in answers])
        while answers.keys() != set(topics):
            assert time.monotonic() < deadline, f"no answer for {set(topics) - answers.keys()}"
            for message in consumer.consume(100, 0.2):
                if (topic := message.topic()) in topics:
                    answers.setdefault(str(topic), message.error())
    finally:
        consumer.close()
    return _allowed(answers, KafkaError.TOPIC_AUTHORIZATION_FAILED)


def _allowed(answers: dict[str, KafkaError | None], refused: int) -> set[str]:
    odd = {name: error for name, error in answers.items() if error is not None and error.code() != refused}
    assert odd == {}
    return {name for name, error in answers.items() if error is None}


@pytest.mark.parametrize("user", users(rules()))
def test_a_user_writes_the_topics_it_may_and_no_other(house: House, user: str) -> None:
    assert writable(house.of(user), TOPICS) == {one.name for one in declared(user, WRITE, TOPIC)}


@pytest.mark.parametrize("user", users(rules()))
def test_a_user_reads_the_topics_it_may_and_no_other(house: House, user: str) -> None:
    groups = covered(GROUPS, declared(user, READ, GROUP) + declared(user, DESCRIBE, GROUP)) or {"nobodys"}
    assert readable(house.of(user), TOPICS, min(groups)) == {one.name for one in declared(user, READ, TOPIC)}


def test_the_pairs_are_all_there_and_an_institution_has_three_of_them() -> None:
    assert len(TOPICS) == 4 * len(institutions())
    assert len(users(rules())) == 3 * len(institutions()) + 4
    for id_ in institutions():
        user = f"institution-{id_}"
        assert {one.name for one in declared(user, WRITE, TOPIC)} == {f"encounters.{id_}"}
        assert {one.name for one in declared(user, READ, TOPIC)} == {f"risk.{id_}", f"rejected.{id_}"}


# --- every user, every group


def joins(settings: Settings, topic: str, group: str) -> bool:
    """Join a group; tell whether its coordinator let the user in."""
    consumer = Consumer(client_properties(settings) | {"group.id": group, "enable.auto.commit": False, "log_level": 0})
    assigned, deadline = list[TopicPartition](), time.monotonic() + _ANSWER_S
    try:
        consumer.subscribe([topic], on_assign=lambda _, partitions: assigned.extend(partitions))
        while not assigned:
            assert time.monotonic() < deadline, f"no answer for {group}"
            for message in consumer.consume(10, 0.1):
                error = message.error()
                if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return False
        return True
    finally:
        consumer.close()


def asks(settings: Settings, group: str) -> bool:
    """Ask about a group; tell whether the user was told."""
    try:
        group_members(settings, group)
    except AccessRefusedError:
        return False
    return True


@pytest.mark.parametrize("user", users(rules()))
def test_a_user_joins_the_groups_it_may_and_asks_for_no_others_offsets(house: House, user: str) -> None:
    settings, topic = house.of(user), next(one.name for one in rules() if one.user == user and one.resource == TOPIC)
    reads, describes = declared(user, READ, GROUP), declared(user, DESCRIBE, GROUP)
    assert {group for group in GROUPS if joins(settings, topic, group)} == covered(GROUPS, reads)
    assert {group for group in GROUPS if asks(settings, group)} == covered(GROUPS, reads + describes)


# --- nobody else


def seconds_of_refusal(settings: Settings, kind: type[HealthAllianceError], words: str) -> float:
    began = time.monotonic()
    with pytest.raises(kind, match=words):
        present_topics(settings)
    return time.monotonic() - began


def test_a_user_that_nobody_knows_and_a_wrong_password_are_told_at_once(house: House) -> None:
    secret = SecretStr("a-secret-of-nobody")
    for changed in ({"kafka_sasl_password": secret}, {"kafka_sasl_username": "stranger"}):
        settings = house.of("worker").model_copy(update=changed)
        assert seconds_of_refusal(settings, AccessRefusedError, "does not know this user or password") < 5


def test_plain_text_is_not_answered(house: House) -> None:
    settings = house.of("worker").model_copy(update={"kafka_security_protocol": "PLAINTEXT"})
    assert seconds_of_refusal(settings, UnavailableError, "does not answer") < 20


def test_encryption_alone_lets_nobody_in(house: House) -> None:
    """Who names no user is let in where certificates are asked for, and then needs one."""
    given = {"kafka_security_protocol": "SSL", "kafka_bootstrap_servers": house.broker.by_certificate}
    with pytest.raises(HealthAllianceError, match="Kafka"):
        present_topics(house.of("worker").model_copy(update=given))


def test_a_broker_that_the_authority_does_not_vouch_for_is_not_spoken_to(house: House) -> None:
    settings = house.of("worker").model_copy(update={"kafka_ssl_ca_location": ""})
    assert seconds_of_refusal(settings, AccessRefusedError, "KAFKA_SSL_CA_LOCATION") < 5


@pytest.mark.parametrize("command", [("worker",), ("doctor",), ("topics", "ensure"), ("acl", "apply")])
def test_a_command_says_so_in_one_line_without_the_secret(house: House, command: tuple[str, ...]) -> None:
    elsewhere = {"schema_registry_url": "http://127.0.0.1:1", "database_url": "postgresql://127.0.0.1:1/x",
                 "mlflow_tracking_uri": "sqlite://", "pseudonym_key": SecretStr("x" * 40)}  # fmt: skip
    settings = house.of("worker").model_copy(
        update={**elsewhere, "kafka_sasl_password": SecretStr("a-secret-of-nobody")}
    )
    ended = run(settings, *command, timeout_s=60)
    said = ended.stdout + ended.stderr
    assert "a-secret-of-nobody" not in said
    assert "Kafka does not know this user or password" in " ".join(said.split())
    if command != ("doctor",):  # which goes on to the next finding
        assert (ended.code, len(ended.stderr.splitlines())) == (17, 1)


def test_a_certificate_stands_for_its_user(house: House) -> None:
    settings = house.broker.certified("institution-ukhd", house.base)
    assert present_topics(settings) == {"encounters.ukhd", "risk.ukhd", "rejected.ukhd"}
    assert writable(settings, TOPICS) == {"encounters.ukhd"}
    assert readable(settings, TOPICS, "ukhd.certified") == {"risk.ukhd", "rejected.ukhd"}


# --- applying the rules


def test_applying_again_changes_nothing_and_a_dry_run_never_does(house: House) -> None:
    assert run(house.admin, "acl", "apply").stdout == "Every rule is as declared.\n"
    missing, wide = declared("api", WRITE, TOPIC)[0], Rule("institution-closed", READ, TOPIC, "risk.dkfz")
    remove_rules(house.admin, [missing])
    add_rules(house.admin, [wide, Rule("somebody", READ, TOPIC, "risk.dkfz")])
    try:
        assert writable(house.of("api"), [missing.name]) == set()  # a rule that is missing is missed
        dry = run(house.admin, "acl", "apply", "--dry-run").stdout.splitlines()
        assert dry == [
            f"+ {missing}",
            f"- {wide}",
            "1 to add, 1 to remove; nothing was changed.",
            "left alone: Allow somebody: Read Topic risk.dkfz",
        ]
        assert wide in kept_rules(house.admin).rules
        listed = run(house.admin, "acl", "list", "--json").document["rules"]
        assert sorted(one["state"] for one in listed if one["state"] != "kept") == ["missing", "not declared"]
        assert run(house.admin, "acl", "apply").code == 0
        assert list(kept_rules(house.admin).rules) == sorted(rules())
        assert kept_rules(house.admin).others == ("Allow somebody: Read Topic risk.dkfz",)
    finally:
        remove_rules(house.admin, [Rule("somebody", READ, TOPIC, "risk.dkfz")])


def test_nobody_but_the_administrator_sees_or_changes_rules(house: House) -> None:
    for user in ("operator", "worker", "institution-dkfz"):
        with pytest.raises(AccessRefusedError, match="access rules"):
            kept_rules(house.of(user))
        with pytest.raises(AccessRefusedError, match="access rule"):
            add_rules(house.of(user), [Rule(user, WRITE, TOPIC, "risk.dkfz")])


# --- the whole way, each under its own user


@pytest.fixture(scope="module")
def whole(house: House) -> House:
    """Run the rest of a stack, and train a champion on a history that hospitals sent and a worker folded."""
    make_topics_anew(house.admin)
    base = local_stack.up(house.of("operator"), print, four_free_ports())
    found = House(house.broker, base)
    run(found.of("worker"), "migrate")
    with ready_worker(found.of("worker"), history_only=True):
        for id_ in institutions():
            history = simulate(id_, 1, _PATIENTS, *_HISTORY, fault_share=0.0)
            publish_events(found.of(f"institution-{id_}"), id_, history)
        wait_until_applied(found.of("operator"), 120)
    train(found.of("trainer"), 1)
    return found


def make_topics_anew(admin: Settings) -> None:
    """Remove what the tests above left; the rules stay, for they are of names."""
    client = Admin(admin)
    for topic, future in client.client.delete_topics(TOPICS, operation_timeout=_ANSWER_S).items():
        client.answer(future, f"delete topic {topic}")
    ensure_topics(admin)


def read_risk(settings: Settings, id_: str, group: str) -> Message:
    """Read the first score as a hospital does, in a group of its own."""
    properties = {"group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    consumer = Consumer(client_properties(settings) | properties)
    deadline = time.monotonic() + _ANSWER_S
    try:
        consumer.subscribe([topic_name(TopicFamily.RISK, id_)])
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and (error := message.error()) is not None:
                raise KafkaException(error)
            if message is not None:
                consumer.commit(message=message, asynchronous=False)
                return message
        raise AssertionError("no score came")
    finally:
        consumer.close()


def test_an_event_becomes_a_score_that_its_hospital_alone_reads(whole: House) -> None:
    event = to_bytes(encounter("secured", patient="secured"))
    topic = topic_name(TopicFamily.ENCOUNTERS, "dkfz")
    with pytest.raises(AccessRefusedError, match="authorization failed"):
        Publisher(whole.of("institution-ukhd")).publish([OutMessage(topic, b"Patient/secured", event)])
    with ready_worker(whole.of("worker")):
        Publisher(whole.of("institution-dkfz")).publish([OutMessage(topic, b"Patient/secured", event)])
        score = read_risk(whole.of("institution-dkfz"), "dkfz", "dkfz.ward")
        assert score.key() == b"Patient/secured"
        for user, group in (("institution-ukhd", "ukhd.ward"), ("trainer", RANGES_GROUP), ("api", "dkfz.ward")):
            with pytest.raises(KafkaException, match="uthorization failed"):
                read_risk(whole.of(user), "dkfz", group)


def test_alerts_are_sent_by_a_user_that_reads_scores_alone(whole: House) -> None:
    arguments = ("alerts", "-i", "dkfz", "--min-band", "low", "--from-beginning", "--once", "--json")
    ended = run(whole.of("alerting-dkfz"), *arguments)
    assert ended.code == 0, ended.stderr
    assert len(ended.document["sent"]) == 1
    other = run(whole.of("alerting-ukhd"), *arguments)
    assert other.code == 17, other.stderr


def test_the_api_publishes_and_tells_what_arrived(whole: House) -> None:
    with running_api(whole.of("api")) as api, api.client("embl") as client:
        sent = client.post(
            "/api/v1/institutions/embl/encounters",
            content=to_bytes(encounter("by-http", patient="by-http")),
            headers={"Content-Type": "application/fhir+json", "Idempotency-Key": uuid.uuid4().hex},
        )
        assert sent.status_code == 202, sent.text
        activity = next(one for one in client.get("/api/v1/institutions").json() if one["id"] == "embl")
        assert activity["activity"]["events_today"] > 0


def test_a_site_reads_its_own_features_alone(whole: House) -> None:
    assert read_snapshot(whole.of("trainer-ukhd"), institution_ids=["ukhd"]).table.num_rows > 0
    with pytest.raises(AccessRefusedError, match=r"features\.dkfz"):
        read_snapshot(whole.of("trainer-ukhd"), institution_ids=["dkfz"])


def test_an_operator_looks_and_replays_under_a_user_of_its_own(whole: House) -> None:
    found: Any = run(whole.of("operator"), "doctor", "--json").document
    assert [one for one in found if not one["ok"]] == []
    ended = run(whole.of("operator"), "replay", "-i", "dkfz", "--from", "2020-01-01", "--into", "secured", "--json")
    assert ended.code == 0, ended.stderr
