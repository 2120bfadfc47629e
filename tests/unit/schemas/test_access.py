"""Who may do what in Kafka: one institution never reaches another's, and what is declared is what is changed."""

from __future__ import annotations

import pytest

from schemas.access import (
    OPERATOR,
    READ,
    TOPIC,
    WRITE,
    Rule,
    changes,
    institution_user,
    is_own,
    is_own_resource,
    rules,
    users,
)
from schemas.errors import ConfigurationError
from schemas.institutions import institutions


def of(user: str) -> set[tuple[str, str, str]]:
    return {(one.operation, one.resource, one.name) for one in rules() if one.user == user}


@pytest.mark.parametrize("id_", institutions())
def test_a_hospital_writes_its_encounters_reads_its_risks_and_rejections_and_nothing_else(id_: str) -> None:
    assert of(institution_user(id_)) == {
        ("Write", "Topic", f"encounters.{id_}"),
        ("Read", "Topic", f"risk.{id_}"),
        ("Read", "Topic", f"rejected.{id_}"),
        ("Read", "Group", f"{id_}."),
    }


@pytest.mark.parametrize("id_", institutions())
def test_who_alerts_reads_risks_alone_and_a_site_that_trains_features_alone(id_: str) -> None:
    assert of(f"alerting-{id_}") == {
        ("Read", "Topic", f"risk.{id_}"),
        ("Read", "Group", f"healthalliance-alerts.{id_}."),
    }
    assert of(f"trainer-{id_}") == {
        ("Read", "Topic", f"features.{id_}"),
        ("Describe", "Group", "healthalliance-ranges"),
    }


def test_nobody_but_the_operator_both_reads_and_writes_a_topic() -> None:
    reads, writes = (
        {(one.user, one.name) for one in rules() if one.resource == TOPIC and one.operation == operation}
        for operation in (READ, WRITE)
    )
    assert {user for user, _ in reads & writes} == {OPERATOR}


def test_no_prefix_of_a_groups_name_begins_another_users_groups() -> None:
    names = {(one.user, one.name, one.pattern) for one in rules() if one.resource == "Group"}
    prefixes = [(user, name) for user, name, pattern in names if pattern == "Prefixed"]
    assert not [
        (prefix, name)
        for user, prefix in prefixes
        for whose, name, _ in names
        if whose != user and name.startswith(prefix)
    ]
    with pytest.raises(ConfigurationError, match="does not begin with healthalliance"):
        rules(["healthalliance-alerts"])


def test_an_institution_more_is_three_users_more_and_reached_by_every_program() -> None:
    more = rules([*institutions(), "fourth"])
    assert set(users(more)) - set(users(rules())) == {"institution-fourth", "alerting-fourth", "trainer-fourth"}
    assert set(rules()) < set(more)
    added = {one.user for one in set(more) - set(rules())}
    assert {"worker", "api", "trainer", "operator"} <= added


def test_the_workers_group_is_the_one_that_is_set() -> None:
    groups = {one.name for one in rules(worker_group="ours") if one.user == "worker" and one.resource == "Group"}
    assert groups == {"ours"}


def test_what_is_as_declared_needs_no_change() -> None:
    assert changes(rules(), reversed(rules())) == changes([], [])


def test_a_rule_that_is_missing_is_added_and_one_that_nobody_declared_removed() -> None:
    [first, *rest] = rules()
    gone = Rule("institution-closed", READ, TOPIC, "risk.closed")
    wide = Rule("worker", "All", TOPIC, "*")
    found = changes(rules(), [*rest, gone, wide])
    assert (found.add, found.remove) == ((first,), (gone, wide))


def test_rules_of_others_are_left_alone_but_known_where_they_concern_these_topics() -> None:
    assert changes([], [Rule("somebody", READ, TOPIC, "risk.dkfz")]) == changes([], [])
    assert [is_own(user) for user in ("worker", "alerting-x", "admin", "*", "workers")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    reached = [
        ("risk.dkfz", "Literal"),
        ("*", "Literal"),
        ("ris", "Prefixed"),
        ("ris", "Literal"),
        ("other", "Prefixed"),
    ]
    assert [is_own_resource(TOPIC, *one) for one in reached] == [True, True, True, False, False]
    assert not is_own_resource("Broker", "kafka-cluster", "Literal")
